"""What `runstore doctor` says of holes, memory and issuers: each over a real server, issuer or store."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from aiohttp import web

from runstore.adapters.diagnosis import StoreSeen, look
from runstore.adapters.growth import Growth
from runstore.adapters.store import RedisStore
from runstore.cli.finding import Finding
from runstore.cli.findings import judge
from runstore.cli.issuer import judge_issuer, look_at_issuer
from runstore.cli.server_findings import days_left
from runstore.engine import EngineConfig, EngineKind, start
from runstore.projector import Projector
from runstore.wire.keys import PartitionKeys
from tests.gateway.issuer import issuing

GIB = 1024**3
DAY_S = 86_400


def finding(store: StoreSeen, name: str) -> Finding:
    return next(each for each in judge(store) if each.name == name)


@pytest.mark.parametrize(
    ("server", "version", "is_well", "told"),
    [
        ("Redis", "7.2.10", False, "7.2.11"),
        ("Redis", "7.2.11", True, ""),
        ("Redis", "8.0.3", False, "CVE-2025-49844"),
        ("Redis", "8.6.2", False, "8.6.3"),
        ("Redis", "7.0.15", True, "your distribution"),
        ("Redis", "6.2.20", False, "too old"),
        ("Valkey", "8.1.3", False, "8.1.4"),
        ("Valkey", "9.1.0", True, ""),
        ("Valkey", "8.0", True, ""),
    ],
)
async def test_a_version_with_a_known_hole_is_told_with_the_one_that_has_it_no_more(
    redis_url: str, server: str, version: str, is_well: bool, told: str
) -> None:
    seen = msgspec.structs.replace(await look(redis_url), server=server, version=version)

    found = finding(seen, "version")

    assert (found.is_well, told in found.sentence) == (is_well, True)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="apt-get install redis-server")
async def test_an_installed_server_says_its_version_and_the_memory_of_its_machine(tmp_path: Path) -> None:
    with start(EngineConfig(data_dir=tmp_path, kind=EngineKind.INSTALLED)) as engine:
        seen = await look(engine.redis_url)

    assert len(seen.version.split(".")) == 3
    assert seen.machine_bytes is not None
    assert seen.machine_bytes > 64 * 1024**2


async def test_a_server_that_keeps_no_append_only_file_is_told(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        client.config_set("appendonly", "no")
        try:
            seen = await look(redis_url)
        finally:
            client.config_set("appendonly", "yes")

    assert "CONFIG SET appendonly yes" in finding(seen, "persistence").sentence


async def test_a_server_near_its_limit_is_told(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.1))
        try:
            seen = await look(redis_url)
        finally:
            client.config_set("maxmemory", 0)

    assert "raise maxmemory" in finding(seen, "memory").sentence


async def test_clocks_that_are_apart_are_told(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # an offset of the clock here is to the doctor what one of the server's is
    monkeypatch.setattr("runstore.adapters.diagnosis.time", lambda: time.time() + 30)

    assert "30." in (found := finding(await look(redis_url), "clock")).sentence or "29." in found.sentence
    assert not found.is_well


def growing(**changes: Any) -> StoreSeen:
    seen = StoreSeen(
        server="Valkey",
        version="9.1.0",
        role="master",
        policy="noeviction",
        used_bytes=GIB,
        limit_bytes=2 * GIB,
        has_aof=True,
        write_failure="",
        now_ms=0,
        own_ms=0,
        growth=Growth(runs_kept=1_000_000, runs_begun=500_000, over_s=DAY_S, sheds=False),
    )
    return msgspec.structs.replace(seen, **changes)


def test_the_days_that_memory_lasts_follow_from_what_a_run_takes_and_how_many_come() -> None:
    assert days_left(growing(), 2 * GIB) == pytest.approx(2)
    assert "full in 2.0 days" in (found := finding(growing(), "memory")).sentence
    assert not found.is_well
    assert finding(growing(limit_bytes=20 * GIB), "memory").is_well
    # what leaves the store by itself need not fill it
    leaving = Growth(runs_kept=1_000_000, runs_begun=500_000, over_s=DAY_S, sheds=True)
    assert days_left(growing(growth=leaving), 2 * GIB) is None


async def test_how_many_runs_came_lately_is_counted_to_the_run(store: RedisStore, any_redis_url: str) -> None:
    """Across several pages of a project, with runs of two days and a project of today only."""
    now_ms = round(time.time() * 1000)
    ages_h = [("old", 50 - place / 10) for place in range(250)] + [("old", 20 - place / 10) for place in range(120)]
    ages_h += [("new", 5.0)] * 7
    keys = store.meta.keys[0]
    pipe = store.client.pipeline(transaction=False)
    for place, (project, hours) in enumerate(ages_h):
        write_run(pipe, keys, project, place if project == "old" else place - 370, now_ms - round(hours * 3_600_000))
    pipe.execute_command("HSET", keys.projects, "old", 370, "new", 7)
    await pipe.execute()

    growth = (await look(any_redis_url)).growth

    assert growth == Growth(runs_kept=377, runs_begun=127, over_s=float(DAY_S), sheds=False)


def write_run(pipe: Any, keys: PartitionKeys, project: str, place: int, created_ms: int) -> None:
    if place % 100 == 0:
        pipe.execute_command("ZADD", keys.pages(project), created_ms, place // 100)
    pipe.execute_command("ZADD", keys.page(project, place // 100), created_ms, place.to_bytes(16, "big"))


async def test_a_store_of_the_last_hour_says_nothing_of_days(store: RedisStore, any_redis_url: str) -> None:
    event = b'{"run_id":"66666666-6666-6666-6666-666666666666","status":"success","project_name":"forecasts"}'
    await store.client.execute_command(
        "XADD", store.meta.keys_of("66666666-6666-6666-6666-666666666666").events, "*", "event", event
    )  # type: ignore[arg-type]
    await Projector(store).drain()

    assert (await look(any_redis_url)).growth is None


async def test_an_issuer_with_its_keys_and_the_time_of_here_is_well() -> None:
    async with issuing() as issuer:
        seen = await look_at_issuer(issuer.config())

    assert seen.ahead_s is not None
    assert abs(seen.ahead_s) < 5
    assert judge_issuer(seen).is_well


@pytest.mark.parametrize(("ahead_s", "told"), [(90, "ahead of"), (-90, "behind")])
async def test_an_issuer_whose_clock_drifts_is_told(ahead_s: int, told: str) -> None:
    async with issuing() as issuer:

        async def answer(_: web.Request) -> web.Response:
            date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True)
            return web.json_response({"keys": [{"kty": "RSA"}]}, headers={"Date": date})

        issuer.answer = answer
        found = judge_issuer(await look_at_issuer(issuer.config()))

    assert not found.is_well
    assert f"s {told} this machine's" in found.sentence


@pytest.mark.parametrize(("status", "body"), [(404, b"{}"), (302, b""), (200, b"<html>"), (200, b'{"keys":[]}')])
async def test_an_issuer_whose_keys_cannot_be_had_is_told(status: int, body: bytes) -> None:
    async with issuing() as issuer:

        async def answer(_: web.Request) -> web.Response:
            return web.Response(status=status, body=body, headers={"Location": "http://127.0.0.1:1/"})

        issuer.answer = answer
        found = judge_issuer(await look_at_issuer(issuer.config()))
        await issuer.stop()
        away = judge_issuer(await look_at_issuer(issuer.config()))

    assert not found.is_well
    assert not away.is_well
    assert "jwks_url" in found.sentence


async def test_the_command_looks_at_the_issuer_that_the_settings_name(tmp_path: Path, redis_url: str) -> None:
    async with issuing() as issuer:
        await issuer.stop()
        (tmp_path / "runstore.toml").write_text(f'[auth.jwt]\nissuer = "{issuer.issuer}"\naudience = ["a"]\n')
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "runstore.cli", "doctor", "--redis-url", redis_url, "--json"),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
        )
        told, _ = await process.communicate()

    assert process.returncode == 1
    assert [each["is_well"] for each in json.loads(told)["findings"] if each["name"] == "issuer"] == [False]
