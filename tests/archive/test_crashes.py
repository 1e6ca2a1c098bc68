"""An archiver, a restore and a delete that die before and after every call: nothing is lost, twice, or half gone."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from runstore.adapters.objects import Objects
from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.archive.erasing import Eraser
from runstore.archive.restoring import restore
from runstore.core.errors import RunNotFound, StoreUnavailable
from runstore.core.ids import RunId
from tests.archive.site import NOW, Attic
from tests.conftest import emptied
from tests.projector.builders import run_id_of
from tests.projector.state import Crash, Fate, stepped

Work = Callable[[Attic], Awaitable[object]]
RUNS = [run_id_of(number) for number in (1, 2, 3)]
_STEPPED = ("put", "get", "range", "has", "folders", "delete")


class SteppedObjects(Objects):
    """Objects that take a step before and after every call."""

    step: Callable[[], Awaitable[None]]

    @classmethod
    def of(cls, folder: Path, step: Callable[[], Awaitable[None]]) -> "SteppedObjects":
        plain = Objects.open(str(folder))
        made = cls(plain._store, folder=plain._folder, timeout_s=10)
        made.step = step
        return made


def _stepping(name: str) -> Any:
    async def call(self: SteppedObjects, *args: Any, **options: Any) -> Any:
        await self.step()
        answer = await getattr(super(SteppedObjects, self), name)(*args, **options)
        await self.step()
        return answer

    return call


for _name in _STEPPED:
    setattr(SteppedObjects, _name, _stepping(_name))


async def _told(attic: Attic) -> None:
    await attic.tell(RUNS[0], "success", output={"stdout": "hello", "outputs": {"a": 1}})
    await attic.tell(RUNS[1], "failed", project_name="other", error_message="no data")
    await attic.tell(RUNS[1], "success", project_name="other", output={"stdout": "late"})
    await attic.tell(RUNS[2], "success")
    await attic.projector.drain()
    await attic.store.logs.append_logs(RUNS[2], [("stdout", b"one")])


async def _shown(attic: Attic, run_id: RunId) -> Any:
    [record] = await attic.both.runs.get_many([run_id])
    record = record or await attic.both.runs.get_archived(run_id)
    if record is None:
        return None
    ref = record.run.output or record.run.late_output
    view = await attic.both.outputs.view(run_id, ref) if ref is not None else None
    logs = await attic.both.logs.read_logs(run_id, "0", 0)
    return record.run, view, await attic.both.runs.history(run_id), logs


async def _state(attic: Attic) -> Any:
    shown = [await _shown(attic, run_id) for run_id in RUNS]
    return shown, await attic.walk(2), await attic.both.runs.find(RUNS[0].replace("-", "")[:6], None, 11)


async def _dies_everywhere(
    url: str,
    folder: Path,
    work: Work,
    check: Callable[[Attic, Any], Awaitable[None]],
    *,
    before: Work | None = None,
    stride: int = 1,
) -> int:
    """Let work die at each step (or each so many), and be done by another; return how many steps there were."""
    steps, dies_at = 10_000, 0
    while dies_at < steps:
        emptied(url)
        place = folder / str(dies_at)
        async with RedisStore.open(url, partitions=1) as store, RedisStore.open(url) as theirs:
            attic = Attic(store, Archive(Objects.open(str(place)), NOW))
            await _told(attic)
            if before is not None:
                await before(attic)
            told = await _state(attic)
            fate = Fate(dies_at)
            stepped(theirs, fate.step)
            doomed = Attic(theirs, Archive(SteppedObjects.of(place, fate.step), NOW))
            try:
                await work(doomed)
                steps = fate.steps
            except Crash:
                pass
            await asyncio.sleep(0)
            attic.archive.forget()
            await check(attic, told)
        dies_at += stride
    return steps


async def _move(attic: Attic) -> None:
    await attic.archiver.move_due()


EVERY = [pytest.param(13, id="some"), pytest.param(1, id="every", marks=[pytest.mark.slow, pytest.mark.timeout(300)])]


@pytest.mark.parametrize("stride", EVERY)
async def test_an_archiver_may_die_at_any_call(redis_url: str, tmp_path: Path, stride: int) -> None:
    async def check(attic: Attic, told: Any) -> None:
        assert await _state(attic) == told  # whoever died, wherever
        await attic.archiver.move_due()
        assert await _state(attic) == told
        assert await attic.store.runs.get_many(RUNS) == [None, None, None]
        await attic.tell(RUNS[0], "failed")
        await attic.projector.drain()
        assert await _state(attic) == told

    assert await _dies_everywhere(redis_url, tmp_path, _move, check, stride=stride) > 40


@pytest.mark.parametrize("stride", EVERY)
async def test_a_restore_may_die_at_any_call(redis_url: str, tmp_path: Path, stride: int) -> None:
    async def bring_back(attic: Attic) -> None:
        await restore(attic.store, attic.archive, RUNS[1])

    async def check(attic: Attic, told: Any) -> None:
        assert await _state(attic) == told
        await bring_back(attic)
        [record] = await attic.store.runs.get_many([RUNS[1]])
        assert record is not None
        assert await _state(attic) == told

    assert await _dies_everywhere(redis_url, tmp_path, bring_back, check, before=_move, stride=stride) > 20


@pytest.mark.parametrize("before", [None, _move], ids=["in Redis", "archived"])
@pytest.mark.parametrize("stride", EVERY)
async def test_a_delete_may_die_at_any_call(redis_url: str, tmp_path: Path, before: Work | None, stride: int) -> None:
    async def erase(attic: Attic) -> None:
        await Eraser(attic.store, attic.archive).run(RUNS[1])

    async def check(attic: Attic, told: Any) -> None:
        await attic.store.client.delete("runstore:eraser", "runstore:archiver")
        try:
            await erase(attic)
        except RunNotFound:
            pytest.fail("a delete that was broken off cannot be ended")
        shown, walked, _ = await _state(attic)
        assert shown == [told[0][0], None, told[0][2]]
        assert sorted(walked) == sorted([RUNS[0], RUNS[2]])
        await attic.tell(RUNS[1], "success", project_name="other")
        await attic.projector.drain()
        assert await _shown(attic, RUNS[1]) is None
        assert not await _mentions(attic, RUNS[1], besides_last=True)

    steps = await _dies_everywhere(redis_url, tmp_path, erase, check, before=before, stride=stride)
    assert steps > 30


@pytest.mark.parametrize("stride", EVERY)
async def test_a_delete_of_a_project_may_die_at_any_call(redis_url: str, tmp_path: Path, stride: int) -> None:
    async def erase(attic: Attic) -> None:
        await Eraser(attic.store, attic.archive).project("other")

    async def half(attic: Attic) -> None:
        records = await attic.store.runs.get_many([RUNS[1]])
        await attic.archiver.move_batch([record for record in records if record is not None])
        await attic.tell(run_id_of(9), "running", project_name="other")
        await attic.tell(run_id_of(9), "success", project_name="other")
        await attic.projector.drain()

    async def check(attic: Attic, told: Any) -> None:
        await attic.store.client.delete("runstore:eraser", "runstore:archiver")
        with suppress(RunNotFound):  # it was done
            await erase(attic)
        assert await attic.walk(5) == [run_id for run_id in told[1] if run_id in {RUNS[0], RUNS[2]}]
        for key, held in (await everything(attic.store)).items():
            assert b"other" not in key + held
            assert run_id_of(9).encode() not in held
        assert not [name async for name in attic.archive.objects.names("runs/other")]
        assert [name async for name in attic.archive.objects.names("audit")]

    assert await _dies_everywhere(redis_url, tmp_path, erase, check, before=half, stride=stride) > 40


async def everything(store: RedisStore) -> dict[bytes, bytes]:
    """Read all that Redis holds, as bytes by key, but for the filter."""
    found = {}
    for key in await store.client.keys("runstore:*"):
        kind = await store.client.type(key)
        reads = {
            b"hash": ("HGETALL",),
            b"zset": ("ZRANGE", 0, -1),
            b"string": ("GET",),
            b"stream": ("XRANGE", "-", "+"),
        }
        name, *rest = reads[kind]
        found[key] = _flat(await store.client.execute_command(name, key, *rest))
    return found


def _flat(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    parts = chain.from_iterable(value.items()) if isinstance(value, dict) else value
    return b" ".join(map(_flat, parts)) if not isinstance(value, int | float) else b""


async def _mentions(attic: Attic, run_id: RunId, *, besides_last: bool) -> list[bytes]:
    """Name the keys that still tell of a run, but for the event that was told of it last."""
    found = []
    packed = bytes.fromhex(run_id.replace("-", ""))
    for key, held in (await everything(attic.store)).items():
        if packed in key or packed in held or (run_id.encode() in held and not key.endswith(b":events")):
            found.append(key)
    rows = await attic.store.client.xrange(attic.store.meta.keys_of(run_id).events)
    mentioned = [told for _, told in rows if run_id.encode() in told[b"event"]]
    return found + [told[b"event"] for told in (mentioned[:-1] if besides_last else mentioned)]


async def test_two_archivers_at_once_move_each_run_once(redis_url: str, tmp_path: Path) -> None:
    chance = random.Random(7)

    async def wander() -> None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)

    held = RedisStore.open
    async with held(redis_url) as store, held(redis_url) as one, held(redis_url) as two:
        attic = Attic(store, Archive(Objects.open(str(tmp_path)), NOW))
        told: list[RunId] = []
        for turn in range(4):
            told += await attic.ended(range(turn * 40 + 1, turn * 40 + 41))
            racers = []
            for theirs in (one, two):
                if turn == 0:
                    stepped(theirs, wander)
                racers.append(Attic(theirs, Archive(SteppedObjects.of(tmp_path, wander), NOW)).archiver)

            moved = await asyncio.gather(*(racer.move_due() for racer in racers))

            assert sum(each.moved for each in moved) == 40
            assert sorted(await attic.walk(50)) == sorted(told)
        assert await store.runs.get_many(told) == [None] * len(told)


async def test_a_busy_partition_lets_an_archiver_through(redis_url: str, tmp_path: Path) -> None:
    async with RedisStore.open(redis_url) as store:
        attic = Attic(store, Archive(Objects.open(str(tmp_path)), NOW))
        told = await attic.ended(range(1, 100))

        async def keep_busy() -> None:
            number = 1000
            while True:
                number += 1
                await attic.tell(run_id_of(number), "running")
                await attic.projector.drain()

        busy = asyncio.create_task(keep_busy())
        moved = await attic.archiver.move_due()
        busy.cancel()

        assert moved.moved == len(told)


async def test_a_run_that_changes_while_it_is_written_stays(redis_url: str, tmp_path: Path) -> None:
    async with RedisStore.open(redis_url) as store:
        attic = Attic(store, Archive(Objects.open(str(tmp_path)), NOW))
        [run_id] = await attic.ended([1], status="failed")
        put = attic.archive.objects.put

        async def meddle(name: str, body: bytes) -> None:
            if name.startswith("runs/") and not meddled:
                meddled.append(name)
                await attic.tell(run_id, "success", output={"stdout": "a late word"})
                await attic.projector.drain()
            await put(name, body)

        meddled: list[str] = []
        attic.archive.objects.put = meddle  # type: ignore[method-assign]
        first = await attic.archiver.move_due()
        assert first.moved == 0
        assert (await attic.archiver.move_due()).moved == 1

        record = await attic.both.runs.get_archived(run_id)
        assert record is not None
        assert record.run.late_output is not None
        assert await attic.both.outputs.view(run_id, record.run.late_output) is not None


async def test_nothing_is_removed_that_the_archive_does_not_give_back(redis_url: str, tmp_path: Path) -> None:
    async with RedisStore.open(redis_url) as store:
        attic = Attic(store, Archive(Objects.open(str(tmp_path)), NOW))
        told = await attic.ended([1, 2, 3])
        put = attic.archive.objects.put

        async def tear(name: str, body: bytes) -> None:
            await put(name, body[: len(body) // 2])

        attic.archive.objects.put = tear  # type: ignore[method-assign]
        moved = await attic.archiver.move_due()

        assert (moved.moved, moved.failed) == (0, 3)
        assert all(await store.runs.get_many(told))
        attic.archive.objects.put = put  # type: ignore[method-assign]
        assert await attic.archiver.move_due() == (3, 0)


async def test_a_damaged_object_is_told_and_never_taken_for_a_run(redis_url: str, tmp_path: Path) -> None:
    async with RedisStore.open(redis_url) as store:
        attic = Attic(store, Archive(Objects.open(str(tmp_path)), NOW))
        [run_id] = await attic.ended([1])
        await attic.archiver.move_due()
        [path] = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
        whole = path.read_bytes()
        for cut in (0, 3, 10, 30, len(whole) - 1):
            path.write_bytes(whole[:cut])
            attic.archive.forget()

            with pytest.raises(StoreUnavailable, match=r"damaged|range"):
                await attic.both.runs.get_archived(run_id)


async def test_a_run_whose_keys_are_of_the_wrong_type_holds_up_no_other(redis_url: str, tmp_path: Path) -> None:
    async with RedisStore.open(redis_url, partitions=1) as store:
        attic = Attic(store, Archive(Objects.open(str(tmp_path)), NOW))
        told = await attic.ended(range(1, 30))
        bad = told[10]
        key = store.meta.keys[0].ids("forecasts", bad.replace("-", ""))
        await store.client.delete(key)
        await store.client.set(key, "what is this")

        moved = await attic.archiver.move_due()

        assert moved.moved == len(told) - 1
        assert [run_id for run_id in told if (await store.runs.get_many([run_id]))[0] is not None] == [bad]
        assert sorted(await attic.walk(10)) == sorted(told)
