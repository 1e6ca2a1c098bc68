"""The contract over each kind of server: one, stand-ins in memory, and (slow) Sentinels and clusters."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from runstore.adapters.meta import load_meta
from runstore.adapters.store import RedisStore
from tests.conftest import emptied
from tests.simulation.direct import Direct
from tests.simulation.network import SimulatedClient, open_store
from tests.simulation.server import Server
from tests.topology.deployments import Clustered, Guarded, clustered, guarded
from tests.topology.servers import program_of

MAKERS = {"sentinel": guarded, "cluster": clustered}
SEVERAL = [f"{kind}-{program}" for kind in MAKERS for program in ("wheel", "installed")]


class Deployments:
    """Deployments, each begun when it is first asked for."""

    def __init__(self, stack: ExitStack, folders: pytest.TempPathFactory) -> None:
        self._stack = stack
        self._folders = folders
        self._begun: dict[str, Guarded | Clustered] = {}

    def emptied(self, name: str) -> str:
        """Return the URL of one that holds nothing."""
        kind, program = name.split("-")
        found = program_of(program)
        if name not in self._begun:
            made = MAKERS[kind](found, self._folders.mktemp(name))
            self._begun[name] = self._stack.enter_context(made)
        self._begun[name].empty()
        return self._begun[name].url


@pytest.fixture(scope="session")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    """The deployments of the session."""
    with ExitStack() as stack:
        yield Deployments(stack, tmp_path_factory)


Emptying = Callable[[], str]


KINDS = ["real", "memory", *(pytest.param(name, marks=pytest.mark.slow) for name in SEVERAL)]


def _emptying(request: pytest.FixtureRequest) -> Emptying:
    if request.param in SEVERAL:
        deployments: Deployments = request.getfixturevalue("deployments")
        return lambda: deployments.emptied(request.param)
    server: str = request.getfixturevalue(f"{request.param}_server")
    return lambda: emptied(server)


@pytest.fixture(params=KINDS)
def emptying(request: pytest.FixtureRequest) -> Emptying:
    """What empties a store and returns its URL, of each kind in turn."""
    return _emptying(request)


@pytest.fixture
def any_redis_url(emptying: Emptying) -> str:
    """The URL of an empty store, of each kind in turn."""
    return emptying()


@pytest.fixture(params=[*KINDS, "simulated"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[RedisStore]:
    """An empty store, of each kind in turn and on the server that the simulation runs on."""
    if request.param == "simulated":
        direct = Direct(Server())
        meta = await load_meta(SimulatedClient.on(direct, ()))
        yield open_store(direct, meta.partitions)
        return
    async with RedisStore.open(_emptying(request)()) as opened:
        yield opened
