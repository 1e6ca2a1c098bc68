"""What the roles count, over a real store: each number moves by what it is about, and labels have known values only."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runstore.adapters.counted import redis_numbers
from runstore.adapters.objects import Objects
from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.archive.archiver import Archiver
from runstore.archive.config import ArchiveConfig
from runstore.archive.numbers import numbers_of as of_archive
from runstore.gateway.routes import ROUTES
from runstore.metrics import Numbers
from runstore.metrics.table import BY_NAME, FAMILIES, OF_ROUTES
from runstore.projection.numbers import census_of, numbers_of
from runstore.projector import Projector
from runstore.publish.config import PublisherConfig
from runstore.publish.numbers import SpoolCollector, spools_of
from runstore.publish.spools import spool_for
from runstore.reaper import Reaper
from runstore.wire.keys import PartitionKeys
from runstore_worker.config import Project, WorkerConfig
from runstore_worker.numbers import numbers_of as of_worker
from runstore_worker.worker import Worker
from tests.gateway.push.stage import TOKEN, Stage, new_run, staged, stuck, until
from tests.metrics.scrape import Read, number, parsed


@pytest.fixture
async def stage(redis_url: str) -> AsyncIterator[Stage]:
    async with staged(redis_url) as made:
        yield made


async def scraped(stage: Stage) -> Read:
    status, body, _ = await stage.get("/metrics")
    assert status == 200, body
    return parsed(body.decode())


async def of_projector(projector: Projector, reaper: Reaper) -> Read:
    numbers = Numbers()
    numbers.add(numbers_of(projector, reaper))
    numbers.add_look(census_of(projector))
    return parsed((await numbers.expose())[0].decode())


async def test_the_end_of_a_run_is_pushed_and_the_time_that_took_is_counted_once(stage: Stage) -> None:
    run_id = new_run()
    async with stage.socket() as one, stage.socket() as other:
        for socket in (one, other):
            await socket.subscribe(run_ids=[run_id])
            await socket.hear("subscribed")
        before = await scraped(stage)
        await stage.publish(run_id, "running")
        await stage.publish(run_id, "success")
        for socket in (one, other):
            await socket.hear("run")
        after = await scraped(stage)

    assert number(before, "runstore_sockets") == number(before, "runstore_subscriptions") == 2
    assert number(before, "runstore_subscribed_runs") == 2
    assert number(after, "runstore_pushes_total", to="websocket") == 2
    assert number(after, "runstore_push_delay_seconds_count") == 1
    assert 0 < number(after, "runstore_push_delay_seconds_sum") < 60
    assert number(after, "runstore_feed_entries_total") >= 2
    assert number(after, "runstore_ready") == number(after, "runstore_feed_connected") == 1
    await until(lambda: not stage.gateway.services.counts.sockets)
    assert number(await scraped(stage), "runstore_subscriptions") == 0


async def test_look_ups_count_by_where_their_answer_came_from(stage: Stage) -> None:
    run_id = new_run()
    await stage.publish(run_id, "success")
    await until(lambda: _is_known(stage, run_id))
    before = await scraped(stage)
    for asked in (run_id, run_id, new_run()):
        await stage.get(f"/v1/runs/{asked}")
    after = await scraped(stage)

    def grown(**labels: str) -> float:
        name = "runstore_lookups_total"
        return number(after, name, **labels) - number(before, name, **labels)

    assert grown(source="cache", outcome="found") >= 2
    assert grown(source="redis", outcome="absent") == 1
    assert number(after, "runstore_lookup_cache_bytes") > 0


async def _is_known(stage: Stage, run_id: str) -> bool:
    return (await stage.get(f"/v1/runs/{run_id}"))[0] == 200


async def test_requests_count_by_route_and_class_whatever_address_is_asked_for(stage: Stage) -> None:
    for path in ("/v1/runs", "/v1/runs?limit=no", "/v1/no/such/thing", "/%00", "/etc/passwd", f"/v1/runs/{new_run()}"):
        await stage.get(path)
    await stage.get("/v1/runs", token="nobody")
    read = await scraped(stage)

    def requests(route: str, status: str) -> float:
        return number(read, "runstore_http_requests_total", route=route, status=status)

    assert (requests("/v1/runs", "2xx"), requests("/v1/runs", "4xx")) == (1, 2)
    assert (requests("/v1/runs/{run_id}", "4xx"), requests("none", "4xx")) == (1, 3)


async def test_callers_over_a_limit_and_readers_too_slow_are_counted(redis_url: str) -> None:
    async with staged(redis_url, requests_per_s=1, requests_burst_s=30, outbox_bytes=16 * 1024) as stage:
        async with stuck(stage):
            counts = stage.gateway.services.counts
            while not counts.slow_readers:
                await stage.publish(new_run(), "failed", error_message="x" * 100_000)
        for _ in range(40):
            await stage.get("/v1/runs")
        read = await scraped(stage)

    assert number(read, "runstore_slow_readers_closed_total") == 1
    assert number(read, "runstore_rate_limited_total", what="request") > 0


async def test_a_projector_counts_what_it_folded_and_what_waits_for_it(redis_url: str) -> None:
    async with RedisStore.open(redis_url) as store:
        projector, reaper = Projector(store), Reaper(store)
        run_id, other = new_run(), new_run()
        await store.client.execute_command("XADD", store.meta.keys[0].events, "1-1", "event", "no event")
        for event in (
            {"run_id": run_id, "status": "running", "project_name": "forecasts"},
            {"run_id": run_id, "status": "success"},
            {"run_id": run_id, "status": "failed"},
            {"run_id": run_id, "status": "failed", "project_name": "another"},
            {"run_id": other, "status": "pending", "project_name": "forecasts"},
        ):
            await append(store, event)
        waiting = await of_projector(projector, reaper)
        await projector.drain()
        await store.client.execute_command("ZADD", store.meta.keys[1].leases, int(time.time() * 1000) - 5000, b"x" * 16)
        read = await of_projector(projector, reaper)

    assert number(waiting, "runstore_projector_lag_entries") == 6
    assert number(waiting, "runstore_projector_lag_seconds") > 0
    assert number(read, "runstore_projector_lag_entries") == number(read, "runstore_projector_lag_seconds") == 0
    outcomes = {one: number(read, "runstore_events_total", outcome=one) for one in ("applied", "ignored", "refused")}
    assert outcomes == {"applied": 3, "ignored": 1, "refused": 1}
    assert number(read, "runstore_events_total", outcome="unreadable") == 1
    assert number(read, "runstore_transitions_total", status="success") == 1
    assert number(read, "runstore_dead_letters") == 2
    assert number(read, "runstore_runs", status="pending") == 1
    assert number(read, "runstore_runs", status="running") == 0
    assert number(read, "runstore_leases") == 1
    assert number(read, "runstore_lease_overdue_seconds") >= 5
    assert number(read, "runstore_projector_partitions") == number(read, "runstore_partitions") == 16
    assert number(read, "runstore_redis_memory_bytes") > 100_000


async def append(store: RedisStore, event: dict[str, Any]) -> None:
    import json

    from runstore.core.ids import RunId

    keys = store.meta.keys_of(RunId(event["run_id"]))
    await store.client.execute_command("XADD", keys.events, "*", "event", json.dumps(event))


async def test_what_waits_on_the_disk_for_a_store_is_counted_by_whether_a_process_has_it() -> None:
    url = "redis://127.0.0.1:1"
    spool = spool_for(url, PublisherConfig())
    spool.append([b"an event", b"another"])
    numbers = Numbers()
    numbers.add_look(spools_of(url))
    numbers.add_look(spools_of("redis://127.0.0.1:2"))
    read = parsed((await numbers.expose())[0].decode())
    collected = {
        sample.name: sample.value for metric in SpoolCollector(url).collect() for sample in metric.samples[-1:]
    }
    spool.close()

    assert number(read, "runstore_spool_events", held="yes") == 2
    assert number(read, "runstore_spool_bytes", held="yes") == 15
    assert collected == {"runstore_spool_events": 2, "runstore_spool_bytes": 15}


async def test_every_family_is_told_and_every_label_has_a_value_that_the_table_knows(
    stage: Stage, redis_url: str, tmp_path: Path
) -> None:
    pytest.importorskip("obstore", reason="the archive needs obstore: pip install 'runstore[archive]'")
    await stage.publish(new_run(), "failed", error_message="a hostile\nreason")
    for path in ("/v1/runs", "/v1/runs/abcd", "/" + "x" * 500, "/v1/runs/%7Brun_id%7D"):
        await stage.get(path)
    await stage.store.client.execute_command("CONFIG", "SET", "maxmemory", "1gb")
    project = Project(name="forecasts", folder=tmp_path, repository=".", command=("true",))
    numbers, projector = stage.gateway.services.numbers, stage.projector
    numbers.add(redis_numbers)
    numbers.add(numbers_of(projector, Reaper(stage.store)))
    archive = Archive(Objects.open(str(tmp_path / "attic")), ArchiveConfig(url="in tests"))
    numbers.add(of_archive(archive, [Archiver(stage.store, archive)]))
    numbers.add(of_worker(Worker(redis_url, WorkerConfig(projects={"forecasts": project}))))
    numbers.add_look(census_of(projector))
    numbers.add_look(spools_of(redis_url))
    try:
        told = numbers.snapshot() | {}
        await numbers.expose()
        told = numbers.snapshot()
    finally:
        await stage.store.client.execute_command("CONFIG", "SET", "maxmemory", "0")

    assert {name for name, _ in told} == {family.name for family in FAMILIES}
    routes = {"none", *(route.path for route in ROUTES)} | {"none", *(route.method for route in ROUTES)}
    for name, values in told:
        known = BY_NAME[name].labels.values()
        assert len(values) == len(known)
        for value, closed in zip(values, known, strict=True):
            assert value in (routes if closed == OF_ROUTES else closed), (name, value)


async def test_who_may_read_the_numbers_is_a_setting(redis_url: str) -> None:
    async with staged(redis_url, metrics_access="token") as stage:
        assert (await stage.get("/metrics", token="nobody"))[0] == 401
        assert (await stage.get("/metrics", token=TOKEN))[0] == 200
        async with stage.http.get(stage.gateway.url + "/metrics") as answer:
            assert answer.status == 401
    async with staged(redis_url, metrics_access="off") as stage:
        status, body, _ = await stage.get("/metrics")
        assert (status, b"metrics_access" in body) == (404, True)
    async with staged(redis_url) as stage, stage.http.get(stage.gateway.url + "/metrics") as answer:
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")


async def test_an_answer_of_the_store_that_never_comes_is_an_error_of_the_kind_unanswered(redis_url: str) -> None:
    before = parsed(await _redis())
    async with RedisStore.open(redis_url) as store:
        await store.client.execute_command("SET", PartitionKeys(0).cursor, "no hash")
        with pytest.raises(Exception, match="WRONGTYPE"):
            await store.client.execute_command("HGET", PartitionKeys(0).cursor, "n")
        await store.client.execute_command("DEL", PartitionKeys(0).cursor)
    after = parsed(await _redis())

    def grown(name: str, **labels: str) -> float:
        return number(after, name, **labels) - number(before, name, **labels)

    assert grown("runstore_redis_errors_total", kind="refused") == 1
    assert grown("runstore_redis_connections_total") >= 1


async def _redis() -> str:
    numbers = Numbers()
    numbers.add(redis_numbers)
    return (await numbers.expose())[0].decode()


async def test_a_gateway_that_follows_no_longer_says_how_much_of_the_feed_it_has_not_told(stage: Stage) -> None:
    readiness = stage.gateway.services.readiness
    await stage.tail.stop()
    for _ in range(3):
        await append(stage.store, {"run_id": new_run(), "status": "success", "project_name": "forecasts"})

    async def sees_them() -> bool:
        await readiness.turn()
        return readiness.untold_entries >= 1

    await until(sees_them)
    read = await scraped(stage)

    assert number(read, "runstore_feed_lag_entries") >= 1
    assert number(read, "runstore_feed_lag_seconds") > 0
    assert number(read, "runstore_feed_connected") == number(read, "runstore_ready") == 0
