"""One chaos run: start a site, drive it while the plan goes wrong, let everything heal, then check what is left."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from runstore import AsyncPublisher
from runstore.adapters.store import RedisStore
from runstore.publish import PublisherConfig
from tests.chaos.checker import check
from tests.chaos.faults import Injector
from tests.chaos.final import read_final, scanned, spooled
from tests.chaos.history import History, Outcome, read_part
from tests.chaos.load import sentinels
from tests.chaos.observing import Counts
from tests.chaos.plan import INEXACT, Fault, Kind, make_plan
from tests.chaos.rebuilding import CHECKED, Rebuilding
from tests.chaos.report import Report
from tests.chaos.site import Shape, Site, processes_of

QUIET_S: Final = 60.0
"""How long nothing may move before what has not come to rest is taken for stuck."""

AT_REST: Final = "everything comes to rest"


class Ran(msgspec.Struct, kw_only=True):
    """What a run comes to."""

    report: Report
    injected: dict[str, int]
    restarted: dict[str, int]
    """What ended by itself, and was started again."""
    bytes_cut: int
    seconds: float


async def run_chaos(
    folder: Path,
    shape: Shape,
    *,
    seconds: float,
    kinds: Collection[Kind],
    plan: list[Fault] | None = None,
    gap_s: float = 0.8,
) -> Ran:
    """Run and check. `plan` unset: one is made from the seed."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    began = monotonic()
    site = Site(folder, shape)
    history = History(site.history / "chaos.jsonl")

    def reach(phase: str) -> None:
        history.hear("chaos", "phase", detail=f"{monotonic() - began:.1f} s: {phase}")

    try:
        await site.start()
        reach("everything runs")
        site.start_observer()
        reach("everybody observes")
        injector = Injector(site, history)
        if plan is None:
            plan = make_plan(shape.seed, seconds, kinds, site.can_befall, gap_s=gap_s)
        (folder / "plan.txt").write_text("\n".join(map(repr, plan)))
        is_exact = INEXACT.isdisjoint(fault.kind for fault in plan)
        rebuilding = Rebuilding(site, history, is_exact=is_exact)
        checking = asyncio.create_task(rebuilding.go_on())
        ends_at = monotonic() + seconds
        supervising = asyncio.create_task(injector.supervise())
        await injector.play(plan)
        await asyncio.sleep(max(0.0, ends_at - monotonic()))
        await asyncio.to_thread(site.server.ready)
        await _all_ready(site)
        supervising.cancel()
        reach("nothing goes wrong any more")
        trouble = await _let_end(site, history)
        trouble += [f"{number} × {word}" for word, number in injector.ended.items()]
        reach("everything was heard")
        checking.cancel()
        await asyncio.wait([checking])
        if not await _holds(rebuilding.check):
            trouble.append("rebuild --check does not reach the store")
        left = await _stop(site)
        final = await read_final(site.server.url)
        reach("everything has stopped")
        final.left = {**final.left, **left}
        befell = {fault.kind for fault in plan}
        loses = shape.fsync != "always" and Kind.POWER in befell
        report = check(site.history, final, is_exact=is_exact, loses=loses)
        for what in trouble:
            report.broken(AT_REST, what)
        for what in rebuilding.trouble:
            report.broken(CHECKED, what)
        report.counts["rebuild checks"] = rebuilding.checks
        report.counts["rebuild checks without a store"] = rebuilding.unreached
        report.counts["runs compared by rebuild"] = rebuilding.compared
        if loses:
            report.excuse(AT_REST)  # a run whose end was lost waits for ever
        return Ran(
            report=report,
            injected=injector.done,
            restarted=injector.ended,
            bytes_cut=injector.bytes_cut,
            seconds=round(monotonic() - began, 1),
        )
    finally:
        await site.aclose()


async def _all_ready(site: Site) -> None:
    """Wait until every role runs: what had not found Redis at its start ends, and is started again."""

    async def are_ready() -> bool:
        for role in site.roles.values():
            try:
                await asyncio.to_thread(role.ready)
            except AssertionError:
                return False
        return True

    assert await _holds(are_ready), "not everything runs again"


async def _let_end(site: Site, history: History) -> list[str]:
    """Let what was begun end, and everybody hear of it; return what did not come to rest."""
    trouble = []
    assert site.observer is not None
    site.observer.signal(signal.SIGTERM)
    codes = await _end_publishers(site)
    trouble += [f"{name} ended with {code}" for name, code in zip(site.publishers, codes, strict=True) if code]
    history.hear("chaos", "phase", detail="everything was told")
    if not await _holds(lambda: _calls_are_over(site)):
        trouble.append("the observers' calls are not over")
    if not await _holds(lambda: _all_have_ended(site), lambda: _places(site)):
        trouble.append("not every run has ended")
    history.hear("chaos", "phase", detail="every run has ended")
    await _tell_sentinels(site, history)
    counts = Counts({name: _told(site, name) for name in site.publishers})
    (site.history / "counts.json").write_bytes(msgspec.json.encode(counts))
    site.observer.signal(signal.SIGUSR1)
    code = await asyncio.to_thread(site.observer.wait, QUIET_S)
    if code:
        trouble.append(f"the observers ended with {code}")
    return trouble


async def _end_publishers(site: Site) -> list[int]:
    """Ask them to end, wait as long as events leave their spools, and return their exit codes."""
    publishers = [site.roles[name] for name in site.publishers]
    for publisher in publishers:
        publisher.signal(signal.SIGTERM)

    async def have_ended() -> bool:
        return all(publisher.pid is None for publisher in publishers)

    await _holds(have_ended, lambda: _places(site))
    return [await asyncio.to_thread(publisher.wait, 0) for publisher in publishers]


async def _places(site: Site) -> list[tuple[bytes | None, bytes | None]]:
    """Tell where each log ends and where its fold stands: while events are sent or folded, these move."""
    async with RedisStore.open(site.server.url) as store:
        found = []
        for keys in store.meta.keys:
            last = await store.client.execute_command("XREVRANGE", keys.events, "+", "-", "COUNT", 1)
            found.append((last[0][0] if last else None, await store.client.hget(keys.cursor, "entry")))
        return found


async def _stop(site: Site) -> dict[str, int]:
    codes = await asyncio.to_thread(site.stop)
    left = {f"exit codes of {name}": abs(code) for name, code in codes.items()}
    left["processes"] = len(list(processes_of(site)))
    left["events in spools"] = spooled(site.spool_disk)
    return left


async def _holds(claim: Callable[[], Awaitable[bool]], places: Callable[[], Awaitable[object]] | None = None) -> bool:
    """Wait until a claim holds; it may take `QUIET_S` from the last time that the places were others."""
    deadline, last = monotonic() + QUIET_S, None
    while not await claim():
        if places is not None and (now := await places()) != last:
            deadline, last = monotonic() + QUIET_S, now
        if monotonic() > deadline:
            return False
        await asyncio.sleep(0.2)
    return True


async def _calls_are_over(site: Site) -> bool:
    path = site.history / "observer.jsonl"

    def look() -> bool:
        with path.open("rb") as file:
            return b'"calls-over"' in file.read()

    return await asyncio.to_thread(look)


async def _all_have_ended(site: Site) -> bool:
    """Whether no run is pending or running any more, and the log is folded to its end."""
    if any(last is not None and last != folded for last, folded in await _places(site)):
        return False
    async with RedisStore.open(site.server.url) as store:
        return not [
            key
            for status in ("pending", "running")
            async for found in scanned(store, f"runstore:{{*}}:s:{status}:*")
            for key in found
        ]


async def _tell_sentinels(site: Site, history: History) -> None:
    config = PublisherConfig(spool_bytes=0)
    async with AsyncPublisher(site.server.url, config=config) as publisher:
        for run_id, project in sentinels(site.shape.seed, site.partitions):
            told = {"run_id": run_id, "status": "failed"}
            op = history.invoke("chaos", "publish", project=project, **told)
            published = await publisher.publish(run_id, "failed", project_name=project)
            history.end("chaos", "publish", op, Outcome.OK, event_id=published.event_id, **told)


def _told(site: Site, name: str) -> int:
    return 1 + max(
        (int(line.detail) for line in read_part(site.history / f"{name}.jsonl") if line.do == "told"), default=-1
    )
