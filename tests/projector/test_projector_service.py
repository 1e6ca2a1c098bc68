"""The projector as a service: event driven, shared among several, there again when its server is."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.errors import InvalidRequest, StoreUnavailable
from runstore.core.status import Status
from runstore.engine import EngineConfig, EngineKind, start
from runstore.projector import Projector, ProjectorConfig
from tests.conftest import emptied
from tests.projector.builders import event_of, run_id_of, tell
from tests.projector.state import state_of
from tests.projector.test_projector import status_of
from tests.waiting import happens

QUICK = ProjectorConfig(lease_ms=600, block_ms=200)
until = partial(happens, within_s=45.0)


async def test_an_event_is_folded_at_once_however_long_a_read_may_wait(real_store: RedisStore) -> None:
    async with Projector(real_store, ProjectorConfig(block_ms=30_000)):
        run_id = run_id_of(1)
        place = {real_store.meta.keys_of(run_id).partition: 0}
        await tell(real_store, run_id, "success")

        # a read that were not woken would wait for six times as long
        assert await real_store.feed.wait(place, 5_000)


async def test_projectors_share_the_partitions_and_take_over_from_one_that_stops(real_store: RedisStore) -> None:
    one, two = Projector(real_store, QUICK), Projector(real_store, QUICK)
    async with one:
        assert len(one.partitions_owned) == 16
        async with two:

            async def fairly_shared() -> bool:
                # one that lost its leases for want of a processor may share them with the other for a moment
                is_disjoint = not one.partitions_owned & two.partitions_owned
                return is_disjoint and len(one.partitions_owned) == len(two.partitions_owned) == 8

            await until(fairly_shared)

        async def one_has_all() -> bool:
            return len(one.partitions_owned) == 16

        await until(one_has_all)


async def test_a_projector_stops_twice_and_wait_returns(real_store: RedisStore) -> None:
    projector = Projector(real_store, QUICK)
    await projector.start()
    waiting = asyncio.create_task(projector.wait())

    await projector.stop()
    await projector.stop()

    await asyncio.wait_for(waiting, 5)


async def test_a_projector_goes_on_when_its_server_is_back(tmp_path: Path) -> None:
    config = EngineConfig(data_dir=tmp_path / "data", kind=EngineKind.WHEEL)
    engine = start(config)
    async with RedisStore.open(engine.redis_url, timeout_s=2.0) as store, Projector(store, QUICK) as projector:
        await tell(store, run_id_of(1), "running")
        engine.stop()
        with pytest.raises(StoreUnavailable):
            await tell(store, run_id_of(2), "running")

        engine = await asyncio.to_thread(start, config)
        await tell(store, run_id_of(2), "success")

        async def ended() -> bool:
            return await status_of(store, run_id_of(2)) is Status.SUCCESS

        await until(ended)
        assert projector.turns_failed > 0
    engine.stop()


_PROGRAM = """
import asyncio, sys
from runstore.adapters.store import RedisStore
from runstore.projector import Projector, ProjectorConfig

async def main():
    async with RedisStore.open(sys.argv[1]) as store:
        async with Projector(store, ProjectorConfig(batch_entries=3, lease_ms=300, block_ms=50)) as projector:
            print("ready", flush=True)
            await projector.wait()

asyncio.run(main())
"""


@contextmanager
def processes(url: str, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Projectors in processes of their own, at work."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            command = [sys.executable, "-c", _PROGRAM, url]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


async def tell_of_500_runs(store: RedisStore) -> None:
    for number in range(1500):
        run_id = run_id_of(number % 500)
        told = {"numbered": True} if number < 500 else {"output": {"stdout": "x" * 3000}}
        status = "pending" if number < 500 else ("running" if number < 1000 else "success")
        fields = {"event": event_of(run_id, status, **told)}
        await store.client.xadd(store.meta.keys_of(run_id).events, fields, id=f"{1_700_000_000_000 + number}-0")


async def check_against_one_alone(url: str) -> None:
    """Fold what is left, then the same log by one projector in an empty store: both end alike."""
    async with RedisStore.open(url, partitions=1) as store:
        await Projector(store).drain()
        found = await state_of(store)
        events = {keys.events: await store.client.xrange(keys.events) for keys in store.meta.keys}
    emptied(url)
    async with RedisStore.open(url, partitions=1) as store:
        for key, rows in events.items():
            for entry_id, fields in rows:
                await store.client.xadd(key, fields, id=entry_id)
        await Projector(store).drain()
        clean = await state_of(store)
    for key in clean.keys() | found.keys():
        if key.endswith((b":offers", b":controls")):
            # signals only: in one commit they come in no order
            assert sorted(map(repr, clean[key])) == sorted(map(repr, found[key]))
        else:
            assert clean.get(key) == found.get(key), key
    given = sorted(int(found[key][b"n"]) for key in found if b"}:r:" in key)
    assert given == list(range(1, 501)), "run numbers are 1, 2, 3 … without a gap or a repeat"


async def has_worked(store: RedisStore) -> None:
    """Wait until a few commits more were made, or all is done."""
    least = await _commits(store) + 5

    async def worked() -> bool:
        return await _commits(store) >= least or await _is_done(store)

    await until(worked)


async def test_projectors_that_are_killed_again_and_again_fold_what_one_alone_folds(redis_url: str) -> None:
    async with RedisStore.open(redis_url, partitions=1) as store:
        await tell_of_500_runs(store)
        for _ in range(12):
            with processes(redis_url, 1):
                await has_worked(store)

    await check_against_one_alone(redis_url)


async def test_projectors_that_are_frozen_past_their_leases_and_thawed_fold_what_one_alone_folds(
    redis_url: str,
) -> None:
    async with RedisStore.open(redis_url, partitions=1) as store:
        with processes(redis_url, 3) as projectors:
            await tell_of_500_runs(store)
            for turn in range(15):
                frozen = projectors[turn % 3]
                frozen.send_signal(signal.SIGSTOP)
                await has_worked(store)
                frozen.send_signal(signal.SIGCONT)

            async def is_done() -> bool:
                return await _is_done(store)

            await until(is_done)

    await check_against_one_alone(redis_url)


async def _commits(store: RedisStore) -> int:
    return sum([int(await store.client.hget(keys.cursor, "n") or 0) for keys in store.meta.keys])


async def _is_done(store: RedisStore) -> bool:
    for keys in store.meta.keys:
        [(last, _)] = await store.client.xrevrange(keys.events, count=1)
        if await store.client.hget(keys.cursor, "entry") != last:
            return False
    return True


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://localhost:port",
        "redis://localhost:99999",
        "redis://localhost/zero",
        "redis://localhost?colour=red",
        "unix://",
        "redis://[::1",
    ],
)
async def test_a_url_that_cannot_be_is_an_invalid_request(url: str) -> None:
    with pytest.raises(InvalidRequest, match="Redis URL"):
        await RedisStore.connect(url)


async def test_a_server_that_is_not_there_is_unavailable_within_the_timeout() -> None:
    began = monotonic()
    with pytest.raises(StoreUnavailable):
        await RedisStore.connect("redis://127.0.0.1:1", timeout_s=2.0)
    assert monotonic() - began < 4.0


async def test_callers_who_hang_up_midway_never_get_each_others_answers(redis_url: str) -> None:
    async with RedisStore.open(redis_url, max_connections=4) as store:
        for number in range(64):
            await store.client.set(f"k{number}", f"v{number}")

        async def ask(number: int) -> None:
            if number % 2:
                assert await store.client.get(f"k{number % 64}") == f"v{number % 64}".encode()
            else:
                pipe = store.client.pipeline(transaction=False)
                pipe.get(f"k{number % 64}")
                pipe.get(f"k{(number + 1) % 64}")
                found = await pipe.execute()
                assert found == [f"v{number % 64}".encode(), f"v{(number + 1) % 64}".encode()]

        for round_ in range(100):
            tasks = [asyncio.create_task(ask(number)) for number in range(30)]
            for _ in range(round_ % 12):
                await asyncio.sleep(0)
            for task in tasks[round_ % 3 :: 3]:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome

        await asyncio.wait_for(asyncio.gather(*(ask(number) for number in range(64))), 5)


async def test_a_store_that_was_emptied_says_again_how_many_partitions_it_has(real_store: RedisStore) -> None:
    async def _is_named() -> bool:
        return await real_store.feed.store_id() is not None

    before = await real_store.feed.store_id()
    async with Projector(real_store, ProjectorConfig(lease_ms=300)):
        await real_store.client.execute_command("FLUSHALL")
        await until(_is_named)
        after = await real_store.client.execute_command("HGET", "runstore:meta", "partitions")

        assert int(after) == real_store.meta.partitions
        assert await real_store.feed.store_id() != before
