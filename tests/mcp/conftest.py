"""A `dev` in processes of its own, with a model that does what its inputs say, and agents that call it."""

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runstore.adapters.store import RedisStore
from runstore.projector import Projector
from tests.cli.processes import Started, started
from tests.gateway.builders import Site as Gateways
from tests.gateway.builders import StandIn, site_over
from tests.mcp.agents import Site

MODEL = """
import json, os, pathlib, sys, time
inputs = json.loads(pathlib.Path(os.environ["RUNSTORE_INPUTS"]).read_bytes())
print("began", flush=True)
gate = inputs.get("until")
while gate and not os.path.exists(gate):
    time.sleep(0.02)
time.sleep(inputs.get("seconds", 0))
if "fail" in inputs:
    sys.exit(inputs["fail"])
pathlib.Path(os.environ["RUNSTORE_OUTPUTS"]).write_text(json.dumps(inputs.get("outputs", {"said": "hello"})))
"""


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """One `dev` for all tests here."""
    if shutil.which("git") is None or not sys.platform.startswith("linux"):
        pytest.skip("a model comes from a git repository, and its processes are looked for in /proc")
    folder = tmp_path_factory.mktemp("agents")
    repository = folder / "repository"
    repository.mkdir()
    (repository / "model.py").write_text(MODEL)
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], [*who, "commit", "-q", "-m", "A model"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    table = f'repository = "./repository"\ncommand = ["{sys.executable}", "model.py"]\ntimeout_s = 100\n'
    (folder / "runstore.toml").write_text(
        f"[projects.models]\n{table}[projects.secrets]\n{table}[worker]\nconcurrency = 8\n"
    )
    with started("dev", "--port", "0", folder=folder) as dev:
        yield dev


@pytest.fixture
def site(dev: Started, tmp_path: Path) -> Site:
    """What the agents of a test share."""
    return Site(dev, tmp_path)


@pytest.fixture
async def gateways(redis_url: str) -> AsyncIterator[Gateways]:
    """A gateway in the test's own loop, over an empty store, with a projector that keeps up."""
    async with RedisStore.open(redis_url) as opened, Projector(opened), site_over(StandIn(opened)) as made:
        yield made
