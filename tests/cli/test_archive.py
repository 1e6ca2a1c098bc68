"""`runstore archive` moves, brings back and erases, and says so; the services find what it moved."""

import asyncio
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.request import Request, urlopen

import msgspec
import pytest

from runstore.adapters.store import RedisStore
from runstore.archive.config import ArchiveConfig
from runstore.projector import Projector
from tests.cli.command import Command
from tests.projector.builders import run_id_of, tell_at
from tests.waiting import holds_soon

pytest.importorskip("obstore", reason="the archive needs obstore: pip install 'runstore[archive]'")

RUN, OTHER = run_id_of(1), run_id_of(2)
ROOT = Path(__file__).parent.parent.parent
AN_HOUR_AGO_MS = 3_600_000


async def fold_two(url: str) -> None:
    async with RedisStore.open(url) as store:
        seconds, _ = await store.client.execute_command("TIME")
        for run_id in (RUN, OTHER):
            await tell_at(store, run_id, seconds * 1000 - AN_HOUR_AGO_MS, 0, "success", output={"stdout": "hello"})
        await Projector(store).drain()


async def known(url: str) -> list[bool]:
    async with RedisStore.open(url) as store:
        return [record is not None for record in await store.runs.get_many([RUN, OTHER])]


def test_runs_are_moved_brought_back_and_erased(redis_url: str, command: Command, tmp_path: Path) -> None:
    asyncio.run(fold_two(redis_url))
    there = ("--url", str(tmp_path / "attic"), "--redis-url", redis_url)

    early = command("archive", "--older-than", "2h", *there)
    moved = command("archive", "--older-than", "30m", "--json", *there)
    left = asyncio.run(known(redis_url))
    back = command("archive", "restore", RUN[:8], *there)
    asked = command("archive", "delete", RUN[:8], *there)
    erased = command("archive", "delete", RUN[:8], "--yes", "--json", *there)
    again = command("archive", "restore", RUN, *there)

    assert (early.code, early.out) == (0, "0 runs moved\n")
    assert (moved.code, msgspec.json.decode(moved.out)) == (0, {"moved": 2, "failed": 0})
    assert left == [False, False]
    assert (back.code, back.out) == (0, f"{RUN} is back\n")
    assert (asked.code, "--yes" in asked.err) == (2, True)
    assert (erased.code, msgspec.json.decode(erased.out)["run_id"]) == (0, RUN)
    assert (again.code, "has no run" in again.err) == (2, True)
    assert asyncio.run(known(redis_url)) == [False, False]


def test_what_is_missing_is_said(redis_url: str, command: Command, tmp_path: Path) -> None:
    nowhere = command("archive", "--redis-url", redis_url)
    which = command("archive", "--redis-url", redis_url, "--url", str(tmp_path))
    both = command("archive", "delete", "6666", "--project", "a", "--url", str(tmp_path), "--redis-url", redis_url)

    assert [said.code for said in (nowhere, which, both)] == [2, 2, 2]
    assert "--url" in nowhere.err
    assert "--older-than" in which.err
    assert "not both" in both.err


def test_the_services_move_runs_by_their_settings_and_find_them(redis_url: str, tmp_path: Path) -> None:
    asyncio.run(fold_two(redis_url))
    settings = tmp_path / "runstore.toml"
    settings.write_text(f'[archive]\nurl = "{tmp_path / "attic"}"\nretention_s = 60\nevery_s = 0.05\n')
    env = {name: value for name, value in os.environ.items() if not name.startswith("RUNSTORE_")}
    env |= {"RUNSTORE_REDIS_URL": redis_url}
    base = [sys.executable, "-m", "runstore.cli"]
    make = [*base, "token", "create", "--name", "t"]
    token = subprocess.run(make, env=env, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    services = [
        subprocess.Popen([*base, *words, "--json"], env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for words in (["projector"], ["gateway", "--port", "0"])
    ]
    try:
        told = []
        for service in services:
            assert service.stdout is not None
            told.append(msgspec.json.decode(service.stdout.readline()))

        holds_soon(lambda: asyncio.run(known(redis_url)) == [False, False])
        asked = Request(f"{told[1]['url']}/v1/runs/{RUN[:6]}", headers={"Authorization": f"Bearer {token}"})
        with urlopen(asked, timeout=20) as answer:
            found = msgspec.json.decode(answer.read())
    finally:
        for service in services:
            service.send_signal(signal.SIGTERM)
        codes = [service.wait(timeout=20) for service in services]

    assert (found["run_id"], found["output"]["stdout"]) == (RUN, "hello")
    assert codes == [0, 0]


def test_every_setting_is_on_the_page_and_its_example_can_be_read() -> None:
    page = (ROOT / "docs" / "archive.md").read_text("utf-8")
    told = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `") and "[archive]" not in line}
    example = page.split("```toml\n")[1].split("```")[0]

    assert told == set(ArchiveConfig.__struct_fields__)
    config = msgspec.convert(tomllib.loads(example)["archive"], ArchiveConfig, strict=False)
    assert (config.check().memory_bytes, config.retention_s) == (2_000_000_000, 2_592_000.0)
