"""Stores to test against: a real server of this session's own, and a stand-in in memory."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

from runstore.adapters.store import RedisStore
from runstore.engine import EngineConfig, EngineKind, start
from runstore.engine.errors import NoServer
from runstore.projector import Projector

# an example takes as long as the machine has other things to do
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def _server(folder: Path, *kinds: EngineKind) -> Iterator[str]:
    for kind in kinds:
        try:
            engine = start(EngineConfig(data_dir=folder, kind=kind))
        except NoServer:
            continue
        with engine:
            yield engine.redis_url
        return
    pytest.skip("no such server can be started on this machine")


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server, for the length of the session."""
    yield from _server(tmp_path_factory.mktemp("real"), EngineKind.WHEEL, EngineKind.INSTALLED)


@pytest.fixture(scope="session")
def memory_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a stand-in that knows a server's commands, for the length of the session."""
    yield from _server(tmp_path_factory.mktemp("memory"), EngineKind.MEMORY)


def emptied(url: str) -> str:
    client = redis.Redis.from_url(url, protocol=2)
    client.flushall()
    client.close()
    return url


@pytest.fixture(autouse=True)
def spool_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that publishers of this test, and of the processes it starts, keep events in."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "runstore" / "spool"


@pytest.fixture
def redis_url(real_server: str) -> str:
    """The URL of a real server that holds nothing."""
    return emptied(real_server)


@pytest.fixture(params=["real", "memory"])
def any_redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty server, of each kind in turn."""
    return emptied(request.getfixturevalue(f"{request.param}_server"))


@pytest.fixture
async def store(any_redis_url: str) -> AsyncIterator[RedisStore]:
    """An empty store on each kind of server in turn."""
    async with RedisStore.open(any_redis_url) as opened:
        yield opened


@pytest.fixture
async def real_store(redis_url: str) -> AsyncIterator[RedisStore]:
    """An empty store on a real server."""
    async with RedisStore.open(redis_url) as opened:
        yield opened


@pytest.fixture
async def projector(store: RedisStore) -> Projector:
    """A projector of `store` that works when it is told to take a turn or to drain."""
    return Projector(store)
