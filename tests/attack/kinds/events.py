"""The stream: entries that Hypothesis makes, valid and broken, in right and wrong partitions, among runs that are well.

Every entry must be folded or become a dead letter, counted by the server's own count of entries; and every healthy run
among them must end as it was told to, and be pushed.
"""

import asyncio
import time
from base64 import b64encode
from collections import Counter
from random import Random
from typing import Any
from uuid import UUID
from zlib import crc32

from hypothesis import strategies as st

from tests.attack import odd
from tests.attack.attack import Attack, Plan, Tally
from tests.attack.pool import JSON, pool, size_for, spoilt
from tests.attack.site import ATTACKED, SECRET, Site
from tests.cli.processes import run as run_command

AT_ONCE = 400
CANARY_EVERY = 200
FOLDED = ("applied", "ignored", "refused", "unreadable")
WITHIN_S = 120.0
STATUSES = ("pending", "running", "success", "failed", "timed_out", "cancelled")


def events(site: Site, seed: int, size: int) -> list[Any]:
    """Have Hypothesis make events, those only that our own parts may write included."""
    texts = st.text(max_size=40)
    ids = (
        st.sampled_from((*site.known, *site.hidden))
        | st.uuids().map(str)
        | st.uuids().map(lambda each: each.hex.upper())
    )
    output = {
        "exit_code": st.integers(-9, 255),
        "stdout": texts,
        "stderr": texts,
        "outputs": st.dictionaries(texts, JSON, max_size=2),
    }
    request = {"inputs": JSON, "commit_sha": texts, "branch": texts, "timeout_s": st.floats(), "fingerprint": texts}
    reference = {"token": texts, "output_bytes": st.integers(), "view_bytes": st.integers(), "chunks": st.integers()}
    public = {
        "run_id": ids,
        "status": st.sampled_from(STATUSES),
        "project_name": st.sampled_from((ATTACKED, ATTACKED, SECRET, "other")),
        "at": st.datetimes().map(lambda at: at.isoformat() + "+00:00"),
        "commit_sha": st.text(min_size=1, max_size=40),
        "attempt": st.integers(1, 1_000_000),
        "error_message": texts,
        "output": st.fixed_dictionaries({}, optional=output),
        "event_id": texts,
        "tags": st.lists(st.text(min_size=1, max_size=64), max_size=20),
        "worker": texts,
        "traceparent": texts,
    }
    odd_words = {
        **public,
        "run_id": ids | texts,
        "project_name": texts,
        "at": texts,
        "attempt": st.integers(),
        "output": spoilt({**output, "status": st.sampled_from(STATUSES)}),
        "tags": st.lists(texts, max_size=22),
        "progress": spoilt({"fraction": st.floats(), "message": texts}),
        "numbered": st.booleans(),
        "request": spoilt(request),
        "output_ref": spoilt(reference) | st.binary(max_size=40).map(lambda raw: b64encode(raw).decode()),
        "unknown_fields": st.integers(),
    }
    required = ("run_id", "status", "project_name")
    good = st.fixed_dictionaries(
        {name: public[name] for name in required},
        optional={name: value for name, value in public.items() if name not in required},
    )
    broken = st.one_of(spoilt(public, required=required), spoilt(odd_words, required=required), JSON)
    return [*pool(good, size, seed), *pool(broken, size, seed)]


def draw(random: Random, made: list[Any], partitions: int) -> tuple[int, str, dict[bytes, bytes]]:
    """Draw an entry: its partition, its id, its fields."""
    event = random.choice(made)
    if isinstance(event, dict) and "run_id" in event and random.random() < 0.5:
        event = {**event, "run_id": str(UUID(int=random.getrandbits(128), version=4))}
    raw = odd.written(event, ascii_only=random.random() < 0.5)
    kind = random.random()
    if kind < 0.12:
        raw = odd.mutated(random, raw)
    elif kind < 0.14:
        raw = odd.deep(random)
    elif kind < 0.145:
        raw = odd.written(
            {
                **_canary("running", UUID(int=random.getrandbits(128))),
                "error_message": "x" * random.choice((200_000, 300_000, 1_000_000)),
            }
        )
    fields = {b"event": raw}
    if kind > 0.97:
        fields = random.choice(
            (
                {},
                {b"Event": raw},
                {b"event": raw, b"writes": b"{"},
                {b"event": b""},
                {b"x": b"y", b"event": raw},
                {b"event\x00": raw},
                {b"event": raw, b"project": b"\xff"},
            )
        )
    right = crc32(_canonical(event).encode()) % partitions
    entry_id = (
        "*"
        if random.random() < 0.97
        else random.choice(
            ("1-1", "0-1", f"{round(time.time() * 1000)}-{random.randrange(2**32)}", f"{round(time.time() * 1000)}-*")
        )
    )
    return (right if random.random() < 0.93 else random.randrange(partitions)), entry_id, fields or {b"nothing": b""}


def _canonical(event: Any) -> str:
    try:
        return str(UUID(event["run_id"]))
    except (TypeError, KeyError, ValueError, AttributeError):
        return ""


def _canary(status: str, run_id: UUID, **more: Any) -> dict[str, Any]:
    return {"run_id": str(run_id), "status": status, "project_name": ATTACKED, **more}


async def run(site: Site, tally: Tally, plan: Plan) -> None:
    """Write entries past every door, as whoever has the server's password can."""
    made, keys = (
        site.pooled("events", size_for(plan.inputs), lambda size: events(site, plan.seed, size)),
        site.store.meta.keys,
    )
    before_added, before_counted = await _added(site), await _counted(site)
    canaries: dict[str, int] = {}
    numbers = list(plan.numbers())
    for begin in range(0, len(numbers), AT_ONCE):
        pipeline = site.store.client.pipeline(transaction=False)
        sizes: list[int] = []
        for number in numbers[begin : begin + AT_ONCE]:
            random = plan.random(number)
            partition, entry_id, fields = draw(random, made, len(keys))
            if number % CANARY_EVERY == 0:
                run_id = UUID(int=random.getrandbits(128), version=4)
                canaries[str(run_id)] = number
                partition, entry_id = crc32(str(run_id).encode()) % len(keys), "*"
                fields = {b"event": odd.written(_canary("success", run_id, output={"outputs": {"number": number}}))}
            sizes.append(sum(map(len, fields.values())))
            pipeline.execute_command(
                "XADD", keys[partition].events, entry_id, *(each for pair in fields.items() for each in pair)
            )
        replies = await pipeline.execute(raise_on_error=False)
        for size, reply in zip(sizes, replies, strict=True):
            tally.tried("refused by the server" if isinstance(reply, Exception) else "taken", size)
    await _see(site, tally, before_added, before_counted, canaries)
    if not plan.only and not tally.wrong and plan.kind == ATTACK.name:
        await _poison(site, tally, plan.random("poison"))


async def _see(site: Site, tally: Tally, added: int, counted: Counter[str], canaries: dict[str, int]) -> None:
    """See that every entry was folded or buried, and that every healthy run ended and is told."""
    deadline = time.monotonic() + WITHIN_S
    while (found := await _counted(site) - counted).total() < (wanted := await _added(site) - added):
        if time.monotonic() > deadline:
            tally.fail(f"entries that were neither folded nor buried after {WITHIN_S:g} s", told=(wanted, dict(found)))
            break
        await asyncio.sleep(0.1)
    if found.total() > wanted:
        tally.fail("entries that were counted twice", told=(wanted, dict(found)))
    tally.notes.append(f"{wanted:,} entries: " + ", ".join(f"{name} {found[name]:,}" for name in FOLDED))
    async with site.client() as client:
        for run_id, number in canaries.items():
            run = await client.wait(run_id, timeout_s=WITHIN_S)
            if run.status != "success" or run.output is None or run.output.outputs != {"number": number}:
                tally.fail("a healthy run among hostile events that is not as it was told", number, told=run)


async def _poison(site: Site, tally: Tally, random: Random) -> None:
    """Write ids that date or stop a partition for good: the doctor tells, its mending works, and nothing is lost."""
    keys = site.store.meta.keys
    told: list[str] = []
    ids = (f"{round(time.time() * 1000) + 3_600_000}-0", f"{2**64 - 1}-1", f"{2**64 - 1}-{2**64 - 1}")
    for partition, entry_id in zip(random.sample(range(len(keys)), len(ids)), ids, strict=True):
        run_id = UUID(int=random.getrandbits(128), version=4)
        while crc32(str(run_id).encode()) % len(keys) != partition:
            run_id = UUID(int=random.getrandbits(128), version=4)
        event = odd.written(_canary("success", run_id, output={"outputs": {"number": 0}}))
        await site.store.client.execute_command("XADD", keys[partition].events, entry_id, "event", event)
        tally.tried("an id from the future", len(event))
        told.append(str(run_id))
    redis_url = ("--redis-url", site.redis_url)
    found = await asyncio.to_thread(run_command, "doctor", *redis_url, folder=site.folder)
    if found.returncode == 0:
        tally.fail("ids from the future of which the doctor does not tell", told=found.stdout)
    mended = await asyncio.to_thread(run_command, "doctor", "--mend", *redis_url, folder=site.folder)
    await _ready(site, tally)
    async with site.client() as client:
        for run_id in told:
            try:
                run = await client.wait(run_id, timeout_s=30)
            except Exception as error:
                tally.fail("a run with an id from the future that the doctor did not mend", told=(error, mended.stdout))
            else:
                if run.status != "success":
                    tally.fail("a run with an id from the future that is not as it was told", told=run)


async def _ready(site: Site, tally: Tally) -> None:
    deadline = time.monotonic() + WITHIN_S
    while (told := await site.ask("GET", "/readyz"))[0] != 200:
        if time.monotonic() > deadline:
            tally.fail("a store that was mended and is not ready", told=told)
            return
        await asyncio.sleep(0.1)


async def _added(site: Site) -> int:
    pipeline = site.store.client.pipeline(transaction=False)
    for keys in site.store.meta.keys:
        pipeline.execute_command("XINFO", "STREAM", keys.events)
    replies = await pipeline.execute(raise_on_error=False)
    return sum(_entries(reply) for reply in replies if not isinstance(reply, Exception))


def _entries(reply: Any) -> int:
    pairs = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    return int(pairs[b"entries-added"] if b"entries-added" in pairs else pairs["entries-added"])


async def _counted(site: Site) -> Counter[str]:
    counted: Counter[str] = Counter()
    for keys in site.store.meta.keys:
        for name, count in (await site.store.client.hgetall(keys.stats)).items():
            if name.decode() in FOLDED:
                counted[name.decode()] += int(count)
    return counted


ATTACK = Attack(
    name="events",
    checks="each entry folded or buried, once; healthy runs among them end as told; ids from the future are mended",
    share=0.27,
    run=run,
)
