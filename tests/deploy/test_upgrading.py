"""Services of an older commit and of this one over one store."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from runstore import AsyncClient, AsyncPublisher
from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from tests.cli.processes import PATIENT, Started, environment, run, started
from tests.deploy.chroots import ROOT

BEFORE = "e8b0755"
"""The commit whose services are the old ones: the last before they were first tried side by side."""

pytestmark = PATIENT


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of the older commit."""
    folder = tmp_path_factory.mktemp("old")
    packed = subprocess.run(
        ["git", "archive", BEFORE, "runstore", "workers"], cwd=ROOT, capture_output=True, check=False
    )
    if packed.returncode:
        pytest.skip(f"the commit {BEFORE} is not here: git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@contextmanager
def service(code: Path, folder: Path, *words: str, redis_url: str) -> Iterator[Started]:
    """Hold a service of the packages in a folder."""
    place = folder / uuid4().hex
    place.mkdir()
    rest = (path for path in sys.path if path and not path.startswith(str(ROOT)))
    paths = os.pathsep.join([str(code), str(code / "workers"), *rest])
    asked = [sys.executable, "-c", "import runstore; print(runstore.__file__)"]
    found = subprocess.run(asked, env=environment(PYTHONPATH=paths), cwd=place, capture_output=True, check=True)
    assert found.stdout.decode().startswith(f"{code}/")
    with started(*words, "--redis-url", redis_url, folder=place, PYTHONPATH=paths) as running:
        yield running


def empty_repository(folder: Path) -> None:
    folder.mkdir()
    commit = ["-c", "user.name=m", "-c", "user.email=m@example.org", "commit", "-q", "--allow-empty", "-m", "begin"]
    for words in (["init", "-q"], commit):
        subprocess.run(["git", *words], cwd=folder, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("new", ["projector", "gateway and worker"])
async def test_old_and_new_services_work_side_by_side(new: str, old: Path, redis_url: str, tmp_path: Path) -> None:
    codes = {"projector": ROOT if new == "projector" else old, "others": old if new == "projector" else ROOT}
    toml = tmp_path / "runstore.toml"
    toml.write_text('[projects.p]\nrepository = "./model"\ncommand = ["echo", "said"]\n')
    empty_repository(tmp_path / "model")

    with ExitStack() as stack:
        stack.enter_context(service(codes["projector"], tmp_path, "projector", redis_url=redis_url))
        gateway = stack.enter_context(service(codes["others"], tmp_path, "gateway", "--port", "0", redis_url=redis_url))
        worker = ["worker", "--config", str(toml)]
        stack.enter_context(service(codes["others"], tmp_path, *worker, redis_url=redis_url))
        done = run("token", "create", "--name", "t", "--scope", "admin", "--redis-url", redis_url, folder=tmp_path)
        async with AsyncClient(gateway.url, token=done.stdout.strip()) as client, AsyncPublisher(redis_url) as told:
            async with told.track("told", commit_sha="a" * 40) as tracked:
                tracked.outputs["n"] = 1
            published = await client.wait(tracked.run_id, timeout_s=60)
            executed = await client.run("p", mode="sync", tags=["x"])
            events = await client.events(executed.run_id)
            listed = [each.run_id async for each in client.list_runs(tag=["x"])]

    assert (published.status, published.output.outputs if published.output else None) == ("success", {"n": 1})
    assert (executed.status, executed.output.stdout if executed.output else None) == ("success", "said\n")
    assert [event.status for event in events] == ["pending", "running", "success"]
    assert listed == [executed.run_id]
    checked = run("rebuild", "--check", "--json", "--redis-url", redis_url, folder=tmp_path)
    assert checked.returncode == 0, checked.stdout
    assert json.loads(checked.stdout)["compared"] == 2


async def test_a_store_in_a_later_form_is_left_alone(redis_url: str) -> None:
    async with RedisStore.open(redis_url) as store:
        assert await store.client.execute_command("HGET", "runstore:meta", "form") == b"1"
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        client.hset("runstore:meta", "form", "2")

    with pytest.raises(StoreUnavailable, match="kept in form 2"):
        async with RedisStore.open(redis_url):
            pass


async def test_a_store_from_before_forms_had_numbers_is_taken(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        client.hset("runstore:meta", mapping={"partitions": "4", "store_id": "x"})

    async with RedisStore.open(redis_url) as store:
        assert store.meta.partitions == 4
