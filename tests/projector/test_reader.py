"""How much of the logs is read at once."""

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.event import EntryId
from runstore.core.status import Status
from runstore.projection.reader import EventReader, Found, row_bytes
from runstore.projector import Projector
from tests.projector.builders import run_id_of, tell
from tests.projector.test_projector import OTHER, RUN, status_of

MIB = 1024 * 1024


def everything(store: RedisStore) -> dict[int, EntryId]:
    return dict.fromkeys(range(store.meta.partitions), EntryId(0, 0))


async def test_a_read_is_bounded_in_bytes_also_where_large_entries_follow_many_small_ones(store: RedisStore) -> None:
    reader = EventReader(store, most_entries=256, most_bytes=MIB)
    for partition in (0, 1):
        for _ in range(10):
            await tell(store, run_id_of(1, partition=partition), "running")
        for _ in range(4):
            await tell(store, run_id_of(1, partition=partition), "success", output={"stdout": "x" * (MIB // 3)})
    after, sizes, entries = everything(store), [], 0

    while (found := await reader.read(after, 0)).rows:
        sizes.append(sum(row_bytes(row) for rows in found.rows.values() for row in rows))
        entries += sum(map(len, found.rows.values()))
        after |= {partition: rows[-1][0] for partition, rows in found.rows.items()}

    assert max(sizes) <= MIB
    assert entries == 28


async def test_an_entry_over_the_limit_is_read_alone(store: RedisStore) -> None:
    reader = EventReader(store, most_entries=256, most_bytes=1000)
    await tell(store, RUN, "success", output={"stdout": "x" * 5000})
    await tell(store, RUN, "success")

    found = await reader.read(everything(store), 0)

    assert [len(rows) for rows in found.rows.values()] == [1]


async def test_a_partition_with_much_to_read_leaves_room_for_the_others(store: RedisStore) -> None:
    reader = EventReader(store, most_entries=256, most_bytes=1000)
    for _ in range(40):
        await tell(store, RUN, "running", error_message="x" * 500)
    await tell(store, OTHER, "running")
    there = store.meta.keys_of(OTHER).partition

    heard = [there in (await reader.read(everything(store), 0)).rows for _ in range(store.meta.partitions)]

    assert any(heard)


async def test_a_log_of_the_wrong_type_holds_up_its_own_partition_only(real_store: RedisStore) -> None:
    await real_store.client.set(real_store.meta.keys_of(RUN).events, "poison")
    await tell(real_store, OTHER, "success")
    projector = Projector(real_store)

    await projector.turn(block_ms=100)

    assert await status_of(real_store, OTHER) is Status.SUCCESS
    assert projector.turns_failed == 1


@pytest.mark.parametrize("block_ms", [0, 50])
async def test_nothing_to_read_is_nothing(store: RedisStore, block_ms: int) -> None:
    found = await EventReader(store, most_entries=256, most_bytes=MIB).read(everything(store), block_ms)

    assert found == ({}, {})


async def test_a_wait_that_found_nothing_more_is_followed_by_the_next_without_a_count(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, counts = EventReader(store, most_entries=256, most_bytes=MIB), []
    count = reader._take

    async def listen(after: dict[int, EntryId]) -> Found:
        counts.append(after)
        return await count(after)

    monkeypatch.setattr(reader, "_take", listen)
    after = everything(store)
    await reader.read(after, 1)

    for _ in range(3):
        entry = await tell(store, RUN, "running")
        [(there, [(read, _)])] = (await reader.read(after, 5000)).rows.items()
        after[there] = read
        assert read == entry

    assert len(counts) == 1


async def test_what_lies_behind_the_entries_of_one_run_is_read_at_once_before_long(store: RedisStore) -> None:
    reader, after, reads = EventReader(store, most_entries=256, most_bytes=MIB), everything(store), []
    await reader.read(after, 1)
    for _ in range(200):
        await tell(store, RUN, "running")

    while sum(reads) < 200:
        [(there, rows)] = (await reader.read(after, 5000)).rows.items()
        after[there] = rows[-1][0]
        reads.append(len(rows))

    assert len(reads) <= 9


async def test_a_log_of_the_wrong_type_that_comes_back_fails_no_wait_for_the_others(real_store: RedisStore) -> None:
    reader, home = EventReader(real_store, most_entries=256, most_bytes=MIB), real_store.meta.keys_of(RUN)
    await real_store.client.set(home.events, "poison")
    others = everything(real_store)
    del others[home.partition]
    await reader.read(others, 1)

    found = await reader.read(everything(real_store), 1)

    assert set(found.unreadable) == {home.partition}
