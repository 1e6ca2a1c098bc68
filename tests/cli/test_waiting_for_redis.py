"""Services that are started while Redis is away wait for it, and are ready when it comes."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import pytest
from redis import exceptions

from runstore.adapters.connection import is_away
from runstore.core.errors import StoreUnavailable
from runstore.engine import EngineConfig, EngineKind, start
from runstore.engine.errors import NoServer
from tests.cli.processes import GONE_S, PATIENT, environment, run, until
from tests.metrics.scrape import fetched
from tests.topology.servers import free_ports

pytestmark = PATIENT
SETTINGS = '[projects.mine]\nrepository = "."\ncommand = ["true"]\n'
SERVICES = [("projector",), ("projector", "--processes", "2"), ("gateway", "--port", "0"), ("worker",)]


@contextmanager
def begun(*words: str, folder: Path, errors: Path) -> Iterator["subprocess.Popen[str]"]:
    with errors.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "runstore.cli", *words, "--json"],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def away(tmp_path: Path) -> str:
    """The address of a server that was there, and can be started again."""
    (tmp_path / "runstore.toml").write_text(SETTINGS)
    try:
        with start(EngineConfig(data_dir=tmp_path / "redis", kind=EngineKind.WHEEL)) as engine:
            return engine.redis_url
    except NoServer:
        pytest.skip("no such server can be started on this machine")


@pytest.mark.parametrize("role", ["projector", "worker"])
def test_a_service_that_waits_for_redis_is_alive_and_not_ready(tmp_path: Path, away: str, role: str) -> None:
    [port] = free_ports(1)
    log = tmp_path / "log.txt"
    words = (role, "--redis-url", away, "--metrics-port", str(port))
    with begun(*words, folder=tmp_path, errors=log):
        assert until(lambda: "redis_awaited" in log.read_text(), 60)
        alive = fetched(f"http://127.0.0.1:{port}/healthz")
        with pytest.raises(HTTPError) as told:
            fetched(f"http://127.0.0.1:{port}/readyz")

    assert (alive, told.value.code) == ("alive\n", 503)
    told.value.close()


def test_services_wait_for_redis_tell_so_and_are_ready_when_it_comes(tmp_path: Path, away: str) -> None:
    logs = [tmp_path / f"{number}.txt" for number in range(len(SERVICES))]
    with (
        begun(*SERVICES[0], "--redis-url", away, folder=tmp_path, errors=logs[0]) as one,
        begun(*SERVICES[1], "--redis-url", away, folder=tmp_path, errors=logs[1]) as two,
        begun(*SERVICES[2], "--redis-url", away, folder=tmp_path, errors=logs[2]) as three,
        begun(*SERVICES[3], "--redis-url", away, folder=tmp_path, errors=logs[3]) as four,
    ):
        assert until(lambda: all("redis_awaited" in log.read_text() for log in logs), 60)
        with start(EngineConfig(data_dir=tmp_path / "redis", kind=EngineKind.WHEEL)) as engine:
            assert engine.redis_url == away

            for process in (one, two, three, four):
                assert process.stdout is not None
                assert process.stdout.readline().startswith("{")
            for process in (one, two, three, four):
                process.send_signal(signal.SIGTERM)
                assert process.wait(GONE_S) == 0


def test_a_service_that_waits_for_redis_ends_at_a_signal(tmp_path: Path, away: str) -> None:
    log = tmp_path / "worker.txt"
    with begun("worker", "--redis-url", away, folder=tmp_path, errors=log) as worker:
        assert until(lambda: "redis_awaited" in log.read_text(), 60)
        worker.send_signal(signal.SIGTERM)

        assert worker.wait(GONE_S) == 0


@pytest.mark.parametrize("service", ["projector", "gateway", "worker"])
def test_a_password_that_redis_does_not_take_is_not_waited_for(tmp_path: Path, redis_url: str, service: str) -> None:
    (tmp_path / "runstore.toml").write_text(SETTINGS)
    scheme, _, rest = redis_url.partition("://")
    wrong = f"{scheme}://nobody:wrong@{rest.rpartition('@')[2]}"

    told = run(service, "--redis-url", wrong, folder=tmp_path)

    assert told.returncode == 5
    assert "redis_awaited" not in told.stderr
    assert told.stderr.count("\n") == 1


def unavailable(cause: BaseException | None) -> StoreUnavailable:
    error = StoreUnavailable("Redis did not do as asked")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("cause", "is_waited_for"),
    [
        (exceptions.ConnectionError("refused"), True),
        (exceptions.BusyLoadingError("loading"), True),
        (exceptions.TimeoutError("no answer"), True),
        (exceptions.OutOfMemoryError("maxmemory"), True),
        (exceptions.ClusterDownError("down"), True),
        (exceptions.ResponseError("MISCONF it cannot write"), True),
        (None, True),  # it is a replica
        (unavailable(None), True),  # and so is all that is known of a cluster
        (exceptions.AuthenticationError("WRONGPASS"), False),
        (unavailable(exceptions.AuthenticationError("WRONGPASS")), False),
        (exceptions.NoPermissionError("NOPERM"), False),
        (exceptions.ResponseError("unknown command"), False),
        (ValueError("partitions"), False),
    ],
)
def test_only_what_may_mend_itself_is_waited_for(cause: BaseException | None, is_waited_for: bool) -> None:
    assert is_away(unavailable(cause)) is is_waited_for
