"""What `runstore doctor` says of stores that are well, and of stores that are not."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import redis

from runstore.adapters.diagnosis import DeadLetter, PartitionSeen, StoreSeen, look
from runstore.adapters.store import RedisStore
from runstore.cli import main
from runstore.cli.finding import Finding
from runstore.cli.findings import judge
from runstore.projector import Projector
from runstore.publish import PublisherConfig
from runstore.publish.spools import spool_for

NOW = 1_790_000_000_000


def seen(*partitions: PartitionSeen, **changes: Any) -> StoreSeen:
    """A store that is well, but for the changes."""
    well = StoreSeen(
        server="Valkey",
        version="9.1.0",
        role="master",
        policy="noeviction",
        used_bytes=1024,
        limit_bytes=0,
        has_aof=True,
        write_failure="",
        now_ms=NOW,
        own_ms=NOW,
        stored_partitions=str(len(partitions) or 1),
        projectors=1,
        partitions=partitions or (PartitionSeen(partition=0),),
    )
    return msgspec.structs.replace(well, **changes)


def ill(store: StoreSeen) -> list[Finding]:
    return [finding for finding in judge(store) if not finding.is_well]


def the_one(store: StoreSeen) -> Finding:
    (finding,) = ill(store)
    return finding


def test_a_store_that_is_well_has_no_findings() -> None:
    assert not ill(seen())


@pytest.mark.parametrize(("fsync", "is_well"), [("always", True), (None, True), ("everysec", False)])
def test_a_disk_that_is_waited_for_must_be_written_before_each_answer(fsync: str | None, is_well: bool) -> None:
    store = seen(fsync=fsync)

    assert all(finding.is_well for finding in judge(store, durability="fsynced")) is is_well
    assert not ill(store), "whoever does not wait for the disk is not concerned"


def test_what_waits_to_be_safe_for_long_is_told() -> None:
    assert not ill(seen(PartitionSeen(partition=0, unsafe_ms=NOW - 1_000)))

    finding = the_one(seen(PartitionSeen(partition=0, unsafe_ms=NOW - 60_000)))

    assert finding.name == "safety"
    assert "partition 0" in finding.sentence


def test_each_primary_of_a_cluster_is_looked_at() -> None:
    store = seen(others=(("a:1", seen(partitions=())), ("b:2", seen(policy="allkeys-lru", partitions=()))))

    assert the_one(store).sentence.startswith("b:2: maxmemory-policy is allkeys-lru")
    assert [finding.sentence for finding in judge(store) if finding.name == "primary"] == ["a:1 is well"]


@pytest.mark.parametrize(
    ("changes", "name", "advice"),
    [
        ({"version": "6.2.14", "server": "Redis"}, "version", "run Redis 7.0 or later"),
        ({"role": "slave"}, "role", "give the address of the primary"),
        ({"policy": "allkeys-lru"}, "eviction", "CONFIG SET maxmemory-policy noeviction"),
        ({"has_aof": False}, "persistence", "CONFIG SET appendonly yes"),
        ({"write_failure": "the last snapshot failed"}, "persistence", "disk is full"),
        ({"limit_bytes": 1100}, "memory", "raise maxmemory"),
        ({"own_ms": NOW - 7000}, "clock", "7.0 s ahead of"),
        ({"stored_partitions": None, "partitions": ()}, "store", "start `runstore projector`"),
        ({"stored_partitions": "many", "partitions": ()}, "store", "mend it"),
        ({"projectors": 0}, "projector", "start `runstore projector`"),
    ],
)
def test_each_trouble_is_named_with_what_to_do(changes: dict[str, Any], name: str, advice: str) -> None:
    finding = the_one(seen(**changes))

    assert finding.name == name
    assert advice in finding.sentence


def test_a_partition_that_lags_is_named_with_how_long_events_wait() -> None:
    late = PartitionSeen(partition=3, behind=1000, oldest_waiting_ms=NOW - 90_000)

    finding = the_one(seen(PartitionSeen(partition=2), late))

    assert finding.name == "lag"
    assert "in 3 1000 or more events wait, the oldest for 90 s" in finding.sentence


def test_an_event_that_waits_for_a_moment_is_no_trouble() -> None:
    assert not ill(seen(PartitionSeen(partition=0, behind=1, oldest_waiting_ms=NOW - 200)))


def test_the_last_dead_letter_is_told_with_its_reason() -> None:
    old = DeadLetter(entry="1-0", reason="older", at_ms=NOW - 9000)
    new = DeadLetter(entry="2-0", reason="the run belongs to another project", at_ms=NOW - 1000)

    finding = the_one(
        seen(PartitionSeen(partition=0, dead=2, newest_dead=new), PartitionSeen(partition=1, dead=1, newest_dead=old))
    )

    assert "3 dead letters, the last in partition 0: the run belongs to another project" in finding.sentence


def test_dead_letters_of_days_ago_are_told_and_no_trouble() -> None:
    old = DeadLetter(entry="1-0", reason="junk", at_ms=NOW - 3 * 24 * 3_600_000)
    store = seen(PartitionSeen(partition=0, dead=1, newest_dead=old))

    told = [finding for finding in judge(store) if finding.name == "dead letters"]

    assert told[0].is_well
    assert "1 dead letter, the last in partition 0: junk (over a day ago)" in told[0].sentence


@pytest.mark.parametrize("field", ["oldest_lease_ms", "oldest_deadline_ms"])
def test_a_lease_or_deadline_long_past_asks_for_a_projector(field: str) -> None:
    finding = the_one(seen(PartitionSeen(partition=5, **{field: NOW - 120_000})))

    assert finding.name == "leases"
    assert "partition 5 hold" in finding.sentence
    assert "runstore projector" in finding.sentence


def test_a_stream_with_an_id_of_the_far_future_is_named() -> None:
    finding = the_one(seen(PartitionSeen(partition=1, last_ms=NOW * 2)))

    assert finding.name == "event ids"
    assert "runstore doctor --mend" in finding.sentence


def test_events_in_partitions_that_do_not_exist_are_told() -> None:
    finding = the_one(seen(strays=(16, 31)))

    assert finding.name == "publishers"
    assert "16, 31" in finding.sentence


async def test_a_look_sees_events_in_partitions_that_do_not_exist(store: RedisStore, any_redis_url: str) -> None:
    await store.client.execute_command("XADD", "runstore:{31}:events", "*", "event", b"{}")

    assert (await look(any_redis_url)).strays == (31,)


def test_many_partitions_are_named_up_to_eight() -> None:
    finding = the_one(seen(*(PartitionSeen(partition=n, trouble="wrong type") for n in range(12))))

    assert finding.sentence.startswith("partitions 0, 1, 2, 3, 4, 5, 6, 7 and 4 more cannot be read (wrong type)")


async def test_looking_at_an_empty_redis_creates_nothing(redis_url: str) -> None:
    store = await look(redis_url)

    assert store.stored_partitions is None
    assert store.role == "master"
    assert store.policy == "noeviction"
    assert store.has_aof is True
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


async def test_a_look_sees_garbage_in_the_dead_letters(store: RedisStore, any_redis_url: str) -> None:
    await store.client.execute_command("XADD", store.meta.keys[4].events, "*", "event", b"junk")
    await Projector(store).drain()

    part = (await look(any_redis_url)).partitions[4]

    assert part.behind == 0
    assert part.dead == 1
    assert part.newest_dead is not None
    assert part.newest_dead.reason
    assert abs(part.newest_dead.at_ms - time.time() * 1000) < 60_000


async def test_a_look_sees_what_waits_and_what_is_overdue(store: RedisStore, any_redis_url: str) -> None:
    keys = store.meta.keys[0]
    for _ in range(3):
        await store.client.execute_command("XADD", keys.events, "*", "event", b"{}")
    await store.client.execute_command("ZADD", keys.leases, 1000, b"a", 2000, b"b")
    await store.client.execute_command("ZADD", keys.queue_deadlines, 3000, b"c")

    part = (await look(any_redis_url)).partitions[0]

    assert part.behind == 3
    assert part.oldest_waiting_ms is not None
    assert part.oldest_waiting_ms <= part.last_ms
    assert (part.oldest_lease_ms, part.oldest_deadline_ms) == (1000, 3000)


async def test_large_events_that_wait_are_not_all_read_to_be_counted(store: RedisStore, any_redis_url: str) -> None:
    for partition, size, many in ((0, 10, 300), (1, 1024 * 1024, 20)):
        pipe = store.client.pipeline(transaction=False)
        for _ in range(many):
            pipe.execute_command("XADD", store.meta.keys[partition].events, "*", "event", b"x" * size)
        await pipe.execute()

    small, large = (await look(any_redis_url)).partitions[:2]

    assert (small.behind, small.behind_is_all) == (300, True)
    assert 4 <= large.behind < 20
    assert not large.behind_is_all


async def test_a_look_sees_a_stream_poisoned_by_a_far_future_id(real_store: RedisStore, redis_url: str) -> None:
    await real_store.client.execute_command("XADD", real_store.meta.keys[2].events, f"{NOW * 3}-0", "event", b"{}")
    await Projector(real_store).drain()

    names = [finding.name for finding in ill(await look(redis_url))]

    assert "event ids" in names


async def test_a_key_of_another_type_is_that_partitions_trouble_only(store: RedisStore, any_redis_url: str) -> None:
    await store.client.execute_command("SET", store.meta.keys[7].events, b"mine")

    parts = (await look(any_redis_url)).partitions

    assert [part.partition for part in parts if part.trouble] == [7]


async def test_a_replica_is_looked_at_and_named(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.replicaof("127.0.0.1", "1")
        try:
            store = await look(redis_url)
        finally:
            client.replicaof("NO", "ONE")

    assert "role" in [finding.name for finding in ill(store)]


async def run_doctor(*words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runstore.cli", "doctor", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    told, complained = await process.communicate()
    return process.returncode or 0, told.decode(), complained.decode()


async def test_the_doctor_exits_with_0_for_a_store_at_work(real_store: RedisStore, redis_url: str) -> None:
    async with Projector(real_store):
        code, told, _ = await run_doctor("--redis-url", redis_url)

    assert told.endswith("all is well\n")
    assert code == 0


async def test_the_doctor_mends_a_stream_with_an_id_from_the_future(real_store: RedisStore, redis_url: str) -> None:
    await real_store.client.execute_command("XADD", real_store.meta.keys[2].events, f"{2**64 - 1}-0", "event", b"{}")
    async with Projector(real_store):
        code, told, noted = await run_doctor("--redis-url", redis_url, "--mend")

    assert noted == "partition 2 was set back to now, and 1 of its events were put in again\n"
    assert "✗ event ids" not in told
    assert code == 1, "the letter is dead"
    assert (await look(redis_url)).partitions[2].last_ms < time.time() * 1000 + 60_000


async def test_the_doctor_exits_with_1_and_says_in_json_why(real_store: RedisStore, redis_url: str) -> None:
    await real_store.client.execute_command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        code, told, _ = await run_doctor("--redis-url", redis_url, "--json")
    finally:
        await real_store.client.execute_command("CONFIG", "SET", "maxmemory-policy", "noeviction")

    answer = json.loads(told)
    assert code == 1
    assert answer["is_well"] is False
    assert {found["name"] for found in answer["findings"] if not found["is_well"]} == {"eviction", "projector"}


def test_the_doctor_exits_with_5_where_nothing_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--redis-url", "redis://127.0.0.1:1"]) == 5

    assert capsys.readouterr().err.count("\n") == 1


def test_the_doctor_exits_with_2_for_an_address_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--redis-url", "http://127.0.0.1"]) == 2

    assert "redis://" in capsys.readouterr().err


def left_behind(spool_dir: Path, redis_url: str, run_id: str) -> None:
    """Leave an event in the spool of a process that ended."""
    spool = spool_for(redis_url, PublisherConfig())
    spool.append([b'{"run_id":"%s","status":"success","project_name":"forecasts"}' % run_id.encode()])
    spool.close()


def test_events_that_wait_on_this_machine_are_told_and_delivered_when_asked(
    redis_url: str, spool_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = str(uuid4())
    left_behind(spool_dir, redis_url, run_id)

    main(["doctor", "--redis-url", redis_url])
    told = capsys.readouterr().out
    main(["doctor", "--redis-url", redis_url, "--mend", "--json"])
    after = json.loads(capsys.readouterr().out)

    assert "✗ spool" in told
    assert "1 event " in told and "--mend" in told
    assert after["spools"] == []
    client = redis.Redis.from_url(redis_url)
    events = [event for key in client.keys("runstore:{*}:events") for event in client.xrange(key)]
    assert [fields[b"event"].count(run_id.encode()) for _, fields in events] == [1]


def test_events_that_wait_are_told_also_where_the_store_is_not_reached(
    spool_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = "redis://127.0.0.1:1"
    left_behind(spool_dir, nowhere, str(uuid4()))

    assert main(["doctor", "--redis-url", nowhere]) == 5

    assert "1 event " in capsys.readouterr().err
