"""The short stories: what publishers, projectors, gateways, workers, the reaper and a command line do, call by call.

Each is told by a world in which one process may die or fail at any call, and goes on as its client would. It says which
processes' calls are gone through.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from runstore.adapters.dispatch import Standing
from runstore.adapters.holding import Holding, RedisHolding
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId
from runstore.core.principal import Scope
from runstore.core.status import TERMINAL, Status
from runstore.dispatch import Claim
from runstore.mcp.arguments import RunProject
from runstore.ports import TokenRecord
from tests.crashes.world import EVERYBODY, LEASE_MS, PROJECT, Process, World
from tests.peer import Peer, serve
from tests.projector.builders import event_of, run_id_of
from tests.projector.stories import STORIES, tell_story

ONE, TWO, THREE = (run_id_of(number) for number in (1, 2, 3))
MOST_ROUNDS = 600
ROUND_S = 0.02


class Story(NamedTuple):
    """A story, and the processes that are put to the test in it, each in its turn.

    Where it waits for the server's clock, its processes do the same again and again: `most_repeats` calls of a name are
    gone through, and what is done when the time has come is called by another name. Such
    stories are slow.
    """

    tell: Callable[[World], Awaitable[None]]
    roles: tuple[str, ...]
    most_repeats: int = 1000
    is_quick: bool = True


async def life(world: World) -> None:
    """A run is published from its begin to its end."""
    await world.publish(ONE, Status.RUNNING)
    await world.publish(ONE, Status.RUNNING, progress={"fraction": 0.5})
    await world.publish(ONE, Status.SUCCESS, output={"stdout": "done", "outputs": {"a": 1}})
    world.ends[ONE] = Status.SUCCESS
    await world.drain()


async def big_output(world: World) -> None:
    """An output over the cap is written beside the log, and one that comes too late is not kept."""
    await world.publish(ONE, Status.FAILED, output={"stdout": "x" * 1_100_000, "outputs": {"a": 1}})
    await world.publish(ONE, Status.SUCCESS, output={"stdout": "y" * 20_000})
    world.ends[ONE] = Status.FAILED
    await world.drain()


async def numbers(world: World) -> None:
    """Numbered runs of two projects amid what is no event."""
    await world.do("feeder", lambda process: tell_story(process.store, STORIES["numbered runs and garbage"]))
    await world.drain()


async def inline_output(world: World) -> None:
    """Somebody put large outputs right into the log."""
    await world.do("feeder", lambda process: tell_story(process.store, STORIES["a large output"]))
    await world.drain()


async def takeover(world: World) -> None:
    """A projector takes its share, folds and leaves; another takes it over."""
    told = STORIES["a run that succeeds"] + STORIES["numbered runs and garbage"][2:3]

    async def serve_and_leave(process: Process) -> None:
        projector = process.projector
        projector._owned = set()
        await projector._share()
        await projector.drain()
        owned, projector._owned = sorted(projector._owned), set()
        await projector._sharing.leave(owned)

    async def is_folded(process: Process) -> bool:
        process.projector._owned = set()
        await process.projector._share()
        await process.projector.drain()
        return bool(process.projector.partitions_owned)

    await world.do("feeder", lambda process: tell_story(process.store, told))
    await world.do("projector", serve_and_leave)
    await _rounds(lambda: world.do("successor", is_folded))


async def submission(world: World) -> None:
    """A run is asked for with a key, twice, and cancelled before anybody took it."""
    asked = RunProject(project_name=PROJECT, inputs={"a": 1}, idempotency_key="once")

    async def ask(process: Process) -> RunId:
        port = await process.gateway()
        await port.run(asked, traceparent=None, wait_s=0, note=lambda _: None)
        return await process.services.lookup.record(_derived()) and _derived()

    async def cancel(process: Process) -> None:
        await (await process.gateway()).cancel(_derived())

    await _serve_project(world)
    await world.do("gateway", Process.gateway)  # it begins the partition, which the projector might do as well
    await world.do("projector", lambda process: process.projector.start())
    assert await world.do("gateway", ask) == await world.do("gateway", ask)
    await world.do("gateway", cancel)
    world.ends[_derived()] = Status.CANCELLED


def _derived() -> RunId:
    from runstore.core.ids import derive_run_id

    return derive_run_id(EVERYBODY.name, PROJECT, "once")


async def execution(world: World) -> None:
    """A run that was asked for is claimed, leased, begun, told of and ended."""
    await _ask(world, ONE)
    world.ends[ONE] = Status.SUCCESS
    await _until_ended(world, ONE, lambda: world.do("worker", _work))


async def given_back(world: World) -> None:
    """A worker that is to stop gives its run back, and another one ends it."""

    async def give_back(process: Process) -> None:
        claim = await _persist(process.dispatch._take)
        if claim is not None:
            await _persist(lambda: process.dispatch.begin(claim))
            await process.dispatch.append_logs(claim, [("stdout", b"half")])
            await _persist(lambda: process.dispatch.release(claim))

    await _ask(world, ONE)
    world.ends[ONE] = Status.SUCCESS
    await world.do("worker", give_back)
    await _until_ended(world, ONE, lambda: world.do("successor", _work))


async def cancelled_work(world: World) -> None:
    """A worker that holds a run is asked to cancel it by way of a gateway."""
    await _ask(world, ONE)
    await world.do("projector", lambda process: process.projector.start())
    held: list[Claim] = []

    async def hold(process: Process) -> None:
        claim = await process.dispatch._take()
        if claim is not None and await process.dispatch.begin(claim) is Standing.HELD:
            held.append(claim)

    async def cancel(process: Process) -> None:
        await (await process.gateway()).cancel(ONE)

    async def heed(process: Process) -> None:
        claim = held[-1]
        standing = await _persist(lambda: process.dispatch.heartbeat(claim))
        if standing is Standing.CANCEL_ASKED:
            await process.publisher.publish(ONE, Status.CANCELLED, attempt=claim.attempt)
            await process.dispatch.finish(claim)

    await world.do("worker", hold)
    await world.do("gateway", cancel)
    if held:
        await world.do("worker", heed)
    world.ends[ONE] = Status.CANCELLED
    await _until_ended(world, ONE, _nothing)


async def lost_worker(world: World) -> None:
    """A worker is gone amid its last attempt: the reaper ends the run."""
    await _ask(world, ONE)

    async def vanish(process: Process) -> None:
        process.dispatch._projects = {PROJECT: process.dispatch._projects[PROJECT]}
        claim = await process.store.client.execute_command("PING") and await process.dispatch._take()
        assert claim is not None
        await process.dispatch.begin(claim)

    await world.do("worker", _on_the_last_attempt)
    await world.do("worker", vanish)
    world.die("worker")
    world.ends[ONE] = Status.FAILED
    await _until_ended(world, ONE, _nothing)


async def overdue(world: World) -> None:
    """Nobody takes a run in time: the reaper ends it."""
    await _ask(world, ONE, queue_timeout_s=0.001)
    world.ends[ONE] = Status.TIMED_OUT
    await _until_ended(world, ONE, _nothing)


async def held_by_hand(world: World) -> None:
    """A publisher holds its run by a lease, lets another go, and is gone: the reaper ends what is still held."""

    async def hold(process: Process) -> None:
        holding = RedisHolding(process.store)
        for run_id, token in ((ONE, "1"), (TWO, "2")):
            held = Holding(run_id=run_id, token=token, project_name=PROJECT, attempt=1)
            [standing] = await holding.hold_each([held], worker="w", lease_ms=LEASE_MS)
            if isinstance(standing, Exception):
                raise standing
        await holding.drop(TWO, "2")

    await world.publish(ONE, Status.RUNNING)
    await world.publish(TWO, Status.RUNNING)
    await world.do("publisher", hold)
    await world.publish(TWO, Status.SUCCESS)
    world.die("publisher")
    world.ends |= {ONE: Status.FAILED, TWO: Status.SUCCESS}
    await _until_ended(world, ONE, _nothing)


async def spooled(world: World) -> None:
    """The store is away while events are published; they are sent when it is back, by whoever finds them."""

    async def publish(process: Process) -> None:
        process.fate.is_away = True
        for status in (Status.RUNNING, Status.SUCCESS):
            published = await process.publisher.publish(ONE, status)
            world.acknowledged.append(published.event_id)
        process.fate.is_away = False
        await process.publisher.flush()

    async def adopt(process: Process) -> None:
        if not await process.publisher.deliver_abandoned():
            raise StoreUnavailable("not all could be sent")

    await world.do("publisher", publish)
    world.die("publisher")
    await world.do("successor", adopt)
    world.ends[ONE] = Status.SUCCESS
    await world.drain()


async def adopted(world: World) -> None:
    """A publisher spooled its events and is gone: another one sends them."""

    async def publish(process: Process) -> None:
        process.fate.is_away = True
        for run_id in (ONE, TWO):
            published = await process.publisher.publish(run_id, Status.SUCCESS)
            world.acknowledged.append(published.event_id)

    async def adopt(process: Process) -> None:
        if not await process.publisher.deliver_abandoned():
            raise StoreUnavailable("not all could be sent")

    await world.do("gone", publish)
    world.die("gone")
    await world.do("publisher", adopt)
    world.ends |= {ONE: Status.SUCCESS, TWO: Status.SUCCESS}
    await world.drain()


async def tokens(world: World) -> None:
    """A token is made and another one revoked."""

    async def make(process: Process) -> None:
        for name in ("kept", "revoked"):
            record = TokenRecord(name=name, hash="0" * 64, scopes=(Scope.READ,), projects=None, created_at_s=1)
            await process.store.tokens.put(record)
        await process.store.tokens.revoke("revoked")
        await process.store.signing_keys.renew(b"k" * 8, b"s" * 32, rotate_s=3600, keep_s=7200)

    await world.do("operator", make)
    kept = await world.do("reader", lambda process: process.store.tokens.list_tokens())
    assert [token.name for token in kept] == ["kept"]


async def subscription(world: World) -> None:
    """Somebody listens to two runs, at one gateway after the other, from the cursor that was heard last."""
    heard: list[dict[str, Any]] = []

    async def listen(process: Process) -> None:
        await process.gateway()
        peer, cursor = Peer(), next((said["cursor"] for said in reversed(heard) if "cursor" in said), None)
        asked = {"cursor": cursor} if cursor else {}
        served = asyncio.ensure_future(serve(process.services, EVERYBODY, peer))
        peer.say(type="subscribe", id="a", run_ids=[ONE, TWO], events="all", **asked)
        seen, is_done = 0, False
        while not is_done and not served.done() and not process.fate.died.is_set():
            peer.news.clear()
            fresh, seen = peer.heard[seen:], len(peer.heard)
            heard.extend(fresh)
            is_done = any(said["type"] in {"done", "error"} for said in fresh)
            if not is_done:
                await asyncio.wait({served, asyncio.ensure_future(peer.news.wait())}, return_when="FIRST_COMPLETED")
        peer.hang_up()
        if heard[-1]["type"] != "done":
            raise StoreUnavailable("the connection ended")

    await world.publish(ONE, Status.SUCCESS)
    await world.do("projector", lambda process: process.projector.start())
    listening = asyncio.ensure_future(world.do("gateway", listen))
    await world.publish(TWO, Status.RUNNING)
    await world.publish(TWO, Status.FAILED)
    async with asyncio.timeout(20):
        await listening
    world.ends |= {ONE: Status.SUCCESS, TWO: Status.FAILED}
    runs = [said["run"] for said in heard if said["type"] == "run"]
    ended = {run["run_id"]: run["status"] for run in runs if run["status"] in TERMINAL}
    assert ended == {ONE: "success", TWO: "failed"}
    statuses = [run["status"] for run in runs if run["run_id"] == TWO]
    assert "running" not in statuses[statuses.index("failed") :]


STORIES_TOLD: dict[str, Story] = {
    "a run's life": Story(life, ("publisher", "projector")),
    "a big output": Story(big_output, ("publisher", "projector")),
    "numbered runs and garbage": Story(numbers, ("projector",)),
    "large outputs in the log": Story(inline_output, ("projector",)),
    "a partition is taken over": Story(takeover, ("projector", "successor")),
    "asked for with a key, and cancelled": Story(submission, ("gateway",), 2),
    "claimed, run and ended": Story(execution, ("worker", "projector"), 2, False),
    "given back by a worker": Story(given_back, ("worker", "successor"), 2, False),
    "cancelled while it is run": Story(cancelled_work, ("gateway", "worker"), 2, False),
    "a worker is lost": Story(lost_worker, ("reaper", "projector"), 2, False),
    "nobody takes it in time": Story(overdue, ("reaper",), 2, False),
    "held by its publisher": Story(held_by_hand, ("publisher", "reaper"), 2, False),
    "spooled and delivered": Story(spooled, ("publisher", "successor")),
    "spooled and adopted": Story(adopted, ("publisher",)),
    "tokens": Story(tokens, ("operator",)),
    "a subscription is resumed": Story(subscription, ("gateway",), 2),
}


async def _ask(world: World, run_id: RunId, **request: Any) -> None:
    event = event_of(run_id, "pending", numbered=True, request={"inputs": {}, **request})
    await world.do("feeder", lambda process: process.store.log.append(run_id, event))
    await world.drain("feeder")


async def _serve_project(world: World) -> None:
    await world.do("feeder", lambda process: process.store.served.register([PROJECT]))


async def _on_the_last_attempt(process: Process) -> None:
    project = process.dispatch._projects[PROJECT]
    process.dispatch._projects[PROJECT] = type(project)(name=PROJECT, attempts=1)


async def _work(process: Process) -> None:
    dispatch, publisher = process.dispatch, process.publisher
    claim = await dispatch._take()
    if claim is None or await _persist(lambda: dispatch.begin(claim)) is not Standing.HELD:
        return
    await publisher.publish(claim.run_id, Status.RUNNING, attempt=claim.attempt)
    await dispatch.append_logs(claim, [("stdout", b"fitting")])
    if await _persist(lambda: dispatch.heartbeat(claim)) is Standing.HELD:
        await publisher.publish(claim.run_id, Status.SUCCESS, attempt=claim.attempt, output={"stdout": "fitting"})
        await dispatch.finish(claim)


async def _persist(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask again where the store was away, as those do who hold something."""
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            pass


async def _until_ended(world: World, run_id: RunId, meanwhile: Callable[[], Awaitable[None]]) -> None:
    async def is_ended() -> bool:
        await meanwhile()
        await world.drain()
        await world.do("reaper", lambda process: process.reaper.turn())
        (record,) = await world.do("reader", lambda process: process.store.runs.get_many([run_id]))
        return record is not None and record.run.is_terminal

    await _rounds(is_ended)


async def _rounds(happens: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(MOST_ROUNDS):
        if await happens():
            return
        await asyncio.sleep(ROUND_S)  # what is waited for is a lease that ends by the server's own clock
    raise AssertionError("the story does not end")


async def _nothing() -> None:
    """Only time passes."""
