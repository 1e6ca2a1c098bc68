"""The contract over each kind of server: one, a stand-in in memory, and (slow) Sentinels and clusters."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import emptied
from tests.topology.deployments import Clustered, Guarded, clustered, guarded
from tests.topology.servers import programs

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
        if program not in (known := programs()):
            pytest.skip(f"no server that is {program} can be started on this machine")
        if name not in self._begun:
            made = MAKERS[kind](known[program], self._folders.mktemp(name))
            self._begun[name] = self._stack.enter_context(made)
        self._begun[name].empty()
        return self._begun[name].url


@pytest.fixture(scope="session")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    """The deployments of the session."""
    with ExitStack() as stack:
        yield Deployments(stack, tmp_path_factory)


Emptying = Callable[[], str]


@pytest.fixture(params=["real", "memory", *(pytest.param(name, marks=pytest.mark.slow) for name in SEVERAL)])
def emptying(request: pytest.FixtureRequest) -> Emptying:
    """What empties a store and returns its URL, of each kind in turn."""
    if request.param in SEVERAL:
        deployments: Deployments = request.getfixturevalue("deployments")
        return lambda: deployments.emptied(request.param)
    server: str = request.getfixturevalue(f"{request.param}_server")
    return lambda: emptied(server)


@pytest.fixture
def any_redis_url(emptying: Emptying) -> str:
    """The URL of an empty store, of each kind in turn."""
    return emptying()
