"""What a projector makes of a log that strangers write, and of a store that somebody has damaged."""

from typing import Any

import msgspec
import pytest

from runstore.adapters.store import RedisStore
from runstore.core.cursor import Place, Standing, judge
from runstore.core.ids import RunId, to_bytes
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.projector import Projector, ProjectorConfig
from tests.projector.builders import event_of, run_id_of, tell

RUN = run_id_of(1)
OTHER = run_id_of(2)


async def status_of(store: RedisStore, run_id: RunId) -> Status | None:
    [record] = await store.runs.get_many([run_id])
    return record.run.status if record is not None else None


async def dead_letters(store: RedisStore) -> list[dict[bytes, bytes]]:
    found = [await store.client.xrange(keys.dead) for keys in store.meta.keys]
    return [fields for rows in found for _, fields in rows]


async def add(store: RedisStore, run_id: RunId, fields: dict[str, Any]) -> None:
    await store.client.xadd(store.meta.keys_of(run_id).events, fields)


GARBAGE: list[tuple[dict[str, Any], str]] = [
    ({"event": "{"}, "cannot be read"),
    ({"event": b"\xff\xfe"}, "cannot be read"),
    ({"event": "[]"}, "cannot be read"),
    ({"event": "[" * 5000}, "nested deeper"),
    ({"events": "{}"}, "no field named event"),
    ({"event": event_of(RUN, "finished")}, "cannot be read"),
    ({"event": event_of(RUN, "running", attempt="two")}, "cannot be read"),
    ({"event": event_of(RUN, "running", error_message="x" * 300_000)}, "over the limit"),
    ({"event": event_of(RunId("6f1c"), "running")}, "no whole run id"),
    ({"event": event_of(RUN, "running", project_name=None)}, "must have a project_name"),
    ({"event": event_of(RUN, "running"), "may_write": '["other"]'}, "may not write"),
    ({"event": event_of(RUN, "running"), "may_write": "junk"}, "cannot be read"),
    ({"event": event_of(RUN, "success", output_ref=["AAAA", 1, 10**9])}, "names no output"),
]


async def test_garbage_goes_to_the_dead_letters_with_its_reason_and_holds_up_nothing(
    store: RedisStore, projector: Projector
) -> None:
    for fields, _ in GARBAGE:
        await add(store, RUN, fields)
    await tell(store, RUN, "success")

    await projector.drain()

    assert await status_of(store, RUN) is Status.SUCCESS
    letters = await dead_letters(store)
    assert len(letters) == len(GARBAGE)
    for (_, reason), letter in zip(GARBAGE, letters, strict=True):
        assert reason in letter[b"reason"].decode()
        assert len(letter[b"event"]) <= 64 * 1024


async def test_an_event_in_another_partition_than_its_runs_is_a_dead_letter(
    store: RedisStore, projector: Projector
) -> None:
    home = store.meta.keys_of(RUN).partition
    elsewhere = store.meta.keys[(home + 1) % 16].events
    await store.client.xadd(elsewhere, {"event": event_of(RUN, "running")})

    await projector.drain()

    assert await status_of(store, RUN) is None
    assert f"partition {home}" in (await dead_letters(store))[0][b"reason"].decode()


async def test_every_transition_of_a_batch_is_told_to_the_feed_in_order(
    store: RedisStore, projector: Projector
) -> None:
    for status in ("pending", "running", "success", "failed"):
        await tell(store, RUN, status)
    await tell(store, RUN, "running", progress={"fraction": 0.5})

    await projector.drain()

    keys = store.meta.keys_of(RUN)
    changes = [c for entry in await store.feed.read(keys.partition, 0, 99) for c in entry.changes]
    assert [(c.run.status, c.is_transition, c.item is not None and bool(c.item.ignored)) for c in changes] == [
        ("pending", True, False),
        ("running", True, False),
        ("success", True, False),
        ("success", False, True),
        ("success", False, True),
    ]
    assert len(await store.runs.history(RUN)) == 5


async def test_a_commit_that_changes_nothing_moves_the_cursor_and_the_feed_all_the_same(
    store: RedisStore, projector: Projector
) -> None:
    keys = store.meta.keys_of(RUN)
    entry_id = await store.client.xadd(keys.events, {"event": "junk"})

    await projector.drain()

    assert await store.client.hget(keys.cursor, "entry") == entry_id
    [entry] = await store.feed.wait({keys.partition: 0}, 0)
    assert f"{entry[1].entry[0]}-{entry[1].entry[1]}".encode() == entry_id


async def test_counters_say_what_became_of_entries(store: RedisStore, projector: Projector) -> None:
    await tell(store, RUN, "running", colour="red", shape="round")
    await tell(store, RUN, "running")
    await tell(store, RUN, "success", project_name="other")
    await add(store, RUN, {"event": "junk"})

    await projector.drain()

    stats = await store.client.hgetall(store.meta.keys_of(RUN).stats)
    assert stats == {
        b"applied": b"1",
        b"ignored": b"1",
        b"refused": b"1",
        b"unreadable": b"1",
        b"unknown_fields": b"2",
    }


def _poisoned(store: RedisStore) -> list[bytes]:
    keys = store.meta.keys_of(RUN)
    packed = to_bytes(RUN)
    return [
        keys.run(packed),
        keys.ids("forecasts", packed.hex()),
        keys.page("forecasts", 0),
        keys.pages("forecasts"),
        keys.status("forecasts", "running"),
    ]


@pytest.mark.parametrize("which", range(5))
async def test_a_run_whose_key_has_the_wrong_type_is_set_aside_and_the_rest_goes_on(redis_url: str, which: int) -> None:
    async with RedisStore.open(redis_url, partitions=1) as store:
        await store.client.set(_poisoned(store)[which], "poison")
        await tell(store, RUN, "running")
        await tell(store, OTHER, "failed", project_name="healthy")

        await Projector(store).drain()

        assert await status_of(store, OTHER) is Status.FAILED
        [letter] = await dead_letters(store)
        assert b"set aside" in letter[b"reason"]
        assert b"wrong type" in letter[b"reason"]


async def test_a_run_that_cannot_be_numbered_is_set_aside_and_the_rest_goes_on(store: RedisStore) -> None:
    await store.client.set("runstore:{n:forecasts}:numbers", "poison")
    await tell(store, RUN, "pending", numbered=True)
    await tell(store, OTHER, "success")

    for _ in range(4):
        await Projector(store).drain()

    assert await status_of(store, OTHER) is Status.SUCCESS
    assert b"run numbers" in (await dead_letters(store))[0][b"reason"]


@pytest.mark.parametrize("name", ["dead", "stats", "leases", "queue_deadlines", "controls"])
async def test_a_signal_key_of_the_wrong_type_holds_up_nothing(real_store: RedisStore, name: str) -> None:
    keys = real_store.meta.keys_of(RUN)
    await real_store.client.set(getattr(keys, name), "poison")
    await add(real_store, RUN, {"event": "junk"})
    await tell(real_store, RUN, "success")

    await Projector(real_store).drain()

    assert await status_of(real_store, RUN) is Status.SUCCESS


async def test_a_partition_that_cannot_be_read_does_not_hold_up_the_others(real_store: RedisStore) -> None:
    here, there = real_store.meta.keys_of(RUN), real_store.meta.keys_of(OTHER)
    assert here.partition != there.partition
    await real_store.client.set(here.projects, "poison")
    await tell(real_store, RUN, "success")
    await tell(real_store, OTHER, "success")
    projector = Projector(real_store)

    await projector.turn(block_ms=100)

    assert await status_of(real_store, OTHER) is Status.SUCCESS
    assert projector.turns_failed == 1


async def _place(store: RedisStore) -> Place:
    keys = store.meta.keys_of(RUN)
    return (await store.feed.tail())[keys.partition][0]


@pytest.mark.parametrize("lost", ["cursor", "feed"])
async def test_a_partition_that_lost_its_cursor_or_feed_gets_a_new_epoch_and_goes_on(
    store: RedisStore, lost: str
) -> None:
    await tell(store, RUN, "running")
    await Projector(store).drain()
    place = await _place(store)
    keys = store.meta.keys_of(RUN)
    await store.client.delete(getattr(keys, lost))
    await tell(store, RUN, "success")

    await Projector(store).drain()

    assert await status_of(store, RUN) is Status.SUCCESS
    assert len(await store.runs.history(RUN)) == 2
    assert judge(place, await store.feed.sight(place)) is Standing.LOST
    newest = await _place(store)
    assert newest.n > place.n
    assert judge(newest, await store.feed.sight(newest)) is Standing.PROVEN


async def test_a_store_that_was_replaced_under_a_projector_is_folded_from_its_own_beginning(store: RedisStore) -> None:
    projector = Projector(store)
    await tell(store, RUN, "running")
    await projector.drain()
    place = await _place(store)
    await store.client.flushall()
    await tell(store, RUN, "failed")
    await Projector(store).drain()
    await tell(store, RUN, "success")

    await projector.drain()

    assert await status_of(store, RUN) is Status.FAILED
    assert judge(place, await store.feed.sight(place)) is Standing.LOST


async def test_an_output_that_was_written_beside_the_log_is_kept_by_its_commit(store: RedisStore) -> None:
    projector = Projector(store)
    output = b'{"status":"success","exit_code":0,"stdout":"%s","stderr":"","outputs":null}' % (b"x" * 2_000_000)
    ref = await store.outputs.write(RUN, output)
    await tell(store, RUN, "success", output_ref=msgspec.to_builtins(ref))

    await projector.drain()

    assert [await store.client.ttl(k) for k in await store.client.keys("runstore:*:o:*")] == [-1] * 3
    [record] = await store.runs.get_many([RUN])
    assert record is not None
    assert record.run.output == ref
    assert b"".join([piece async for piece in store.outputs.read(RUN, ref, 0, len(output))]) == output

    await tell(store, RUN, "success", output_ref=msgspec.to_builtins(ref))
    await projector.drain()
    assert await store.outputs.view(RUN, ref) is not None, "a repeat of the winner takes nothing away"

    late = await store.outputs.write(RUN, output)
    await tell(store, RUN, "failed", output_ref=msgspec.to_builtins(late))
    await projector.drain()
    assert await store.outputs.view(RUN, late) is None, "what no run keeps is gone"


async def test_an_output_that_expired_before_its_event_was_folded_counts_as_none(
    store: RedisStore, projector: Projector
) -> None:
    ref = await store.outputs.write(RUN, b"{}")
    await store.client.delete(*await store.client.keys("runstore:*:o:*"))
    await tell(store, RUN, "success", output_ref=msgspec.to_builtins(ref))

    await projector.drain()

    [record] = await store.runs.get_many([RUN])
    assert record is not None
    assert record.run.status is Status.SUCCESS
    assert record.run.output is None


async def test_what_a_late_terminal_event_left_is_kept_where_the_winner_left_none(
    store: RedisStore, projector: Projector
) -> None:
    await tell(store, RUN, "failed", error_message="worker lost")
    await tell(store, RUN, "success", output={"stdout": "I was not lost"})

    await projector.drain()

    [record] = await store.runs.get_many([RUN])
    assert record is not None
    assert record.run.late_output is not None
    view = await store.outputs.view(RUN, record.run.late_output)
    assert view is not None
    assert b"I was not lost" in view
    assert await store.client.ttl((await store.client.keys("runstore:*:o:*"))[0]) == -1


async def test_trimming_keeps_what_was_not_folded_and_the_last_of_the_feed(real_store: RedisStore) -> None:
    config = ProjectorConfig(
        batch_entries=10, log_retention=100, feed_retention=20, feed_retention_s=0.0, trim_every_commits=1
    )
    async with RedisStore.open(await _emptied(real_store), partitions=1) as store:
        keys = store.meta.keys[0]
        for _ in range(50):
            pipe = store.client.pipeline(transaction=False)
            for number in range(100):
                pipe.execute_command("XADD", keys.events, "*", "event", event_of(run_id_of(number), "running"))
            await pipe.execute()
            await Projector(store, config).drain()
        await store.client.xadd(keys.events, {"event": event_of(RUN, "success")})

        assert 101 <= await store.client.xlen(keys.events) < 400
        assert 20 <= await store.client.xlen(keys.feed) < 300
        await Projector(store, config).drain()
        assert await status_of(store, RUN) is Status.SUCCESS
        n = int(await store.client.hget(keys.cursor, "n"))
        assert [entry.n for entry in await store.feed.read(0, n - 20, n)] == list(range(n - 19, n + 1))


async def _emptied(store: RedisStore) -> str:
    await store.client.flushall()
    kwargs = store.client.connection_pool.connection_kwargs
    return f"redis://:{kwargs['password']}@{kwargs['host']}:{kwargs['port']}/0"


async def test_an_event_that_nobody_can_fold_is_set_aside_alone(
    store: RedisStore, projector: Projector, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbour = run_id_of(7, partition=store.meta.keys_of(RUN).partition)

    def breaks(writes: Any, keys: Any, run: Run, touched: Any) -> None:
        if run.run_id == RUN:
            raise OverflowError("nobody thought of this")

    monkeypatch.setattr("runstore.projection.writes._offer", breaks)
    for run_id in (neighbour, RUN, OTHER):
        await tell(store, run_id, "pending", numbered=True, request={"inputs": {}})
        await tell(store, neighbour, "success")

    await projector.drain()

    assert [await status_of(store, run_id) for run_id in (neighbour, RUN, OTHER)] == ["success", None, "pending"]
    [letter] = await dead_letters(store)
    assert letter[b"reason"] == b"the event cannot be folded: OverflowError"
    assert RUN.encode() in letter[b"event"]


async def test_a_request_with_an_endless_wait_holds_up_nothing(store: RedisStore, projector: Projector) -> None:
    await tell(store, RUN, "pending", numbered=True, request={"queue_timeout_s": 1e308})
    await tell(store, RUN, "success")

    await projector.drain()

    assert await status_of(store, RUN) is Status.SUCCESS
    assert b"queue_timeout_s" in (await dead_letters(store))[0][b"reason"]


@pytest.mark.parametrize("field", ["entry", "n"])
async def test_a_cursor_that_makes_no_sense_holds_up_its_own_partition_only(real_store: RedisStore, field: str) -> None:
    await tell(real_store, RUN, "success")
    await Projector(real_store).drain()
    await real_store.client.hset(real_store.meta.keys_of(RUN).cursor, field, "junk")
    await tell(real_store, OTHER, "success")
    projector = Projector(real_store)

    await projector.turn(block_ms=100)

    assert await status_of(real_store, OTHER) is Status.SUCCESS
    assert projector.turns_failed == 1


async def test_a_server_that_takes_no_more_writes_is_not_asked_again_and_again(real_store: RedisStore) -> None:
    projector = Projector(real_store)
    await tell(real_store, OTHER, "success")
    await projector.drain()
    await tell(real_store, OTHER, "failed")
    await real_store.client.config_set("maxmemory", "1")
    try:
        await projector.turn(block_ms=100)

        assert projector.turns_failed == 1
    finally:
        await real_store.client.config_set("maxmemory", "0")
    while await projector.drain() == 0:
        pass
    assert len(await real_store.runs.history(OTHER)) == 2


async def test_one_feed_entry_does_not_grow_with_the_texts_of_a_batch(real_store: RedisStore) -> None:
    await tell(real_store, RUN, "failed", error_message="x" * 200_000)
    for _ in range(20):
        await tell(real_store, RUN, "success")

    await Projector(real_store).drain()

    rows = await real_store.client.xrange(real_store.meta.keys_of(RUN).feed)
    assert max(len(fields[b"c"]) for _, fields in rows) < 1_200_000
    assert len(await real_store.runs.history(RUN)) == 21
