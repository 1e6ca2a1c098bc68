"""An engine from start to stop."""

import os
import signal
import socket
import stat
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from engine_builders import Configure, Launch, connect, is_alive, is_free

from runstore.engine import EngineKind, locate, start
from runstore.engine.errors import DataFolderInUse, NoServer


def test_a_client_needs_nothing_but_the_url(launch: Launch) -> None:
    engine = launch()

    assert connect(engine).ping()
    assert engine.durable


def test_data_is_there_at_the_next_start_and_so_is_the_address(launch: Launch) -> None:
    first = launch()
    connect(first).xadd("log", {"n": "1"})
    first.stop()

    second = launch()

    assert connect(second).xlen("log") == 1
    assert second.redis_url == first.redis_url


def test_stopping_twice_is_as_good_as_once_and_leaves_no_process(launch: Launch, folder: Path) -> None:
    engine = launch()
    assert engine.pid is not None

    engine.stop()
    engine.stop()

    assert not is_alive(engine.pid)
    assert engine.has_ended()
    assert is_free(folder)


def test_a_second_owner_is_refused_with_the_pid_and_the_folder(launch: Launch, folder: Path) -> None:
    launch()

    with pytest.raises(DataFolderInUse) as refused:
        launch()

    assert str(refused.value) == (
        f"process {os.getpid()} already runs an engine on the data folder {folder}; stop it or use another"
    )


def test_two_folders_have_two_engines(launch: Launch, tmp_path: Path) -> None:
    urls = {launch(data_dir=tmp_path / name).redis_url for name in ("one", "two")}

    assert len(urls) == 2


def test_an_engine_is_located_by_its_folder_while_it_runs(launch: Launch, folder: Path) -> None:
    before = locate(folder)
    engine = launch()
    during = locate(folder)
    engine.stop()

    assert (before, during, locate(folder)) == (None, engine.redis_url, None)


def test_nobody_without_the_password_is_let_in(launch: Launch) -> None:
    engine = launch()
    client = connect(engine)
    password = client.connection_pool.connection_kwargs["password"]

    with pytest.raises(redis.AuthenticationError):
        connect(engine.redis_url.replace(password, "guess")).ping()
    with pytest.raises(redis.AuthenticationError):
        connect(engine.redis_url.replace(f"default:{password}@", "")).ping()


def test_no_secret_shows_in_the_list_of_processes(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "s3cret-of-the-owner")
    engine = launch()
    password = connect(engine).connection_pool.connection_kwargs["password"]

    listed = subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout
    ours = [line for line in listed.splitlines() if str(engine.pid) in line or "watchdog.py" in line]

    assert len(ours) >= 2
    assert password not in listed
    assert not [line for line in ours if "s3cret-of-the-owner" in line]


def test_what_lies_in_the_folder_is_private(launch: Launch, folder: Path) -> None:
    connect(launch()).set("k", "v")

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}

    assert modes[".runstore"] == 0o700
    assert {name for name, mode in modes.items() if mode & 0o077} <= {".gitignore"}


def test_a_password_left_half_written_is_made_anew(launch: Launch, folder: Path) -> None:
    launch().stop()
    (folder / "redis-password").write_text("short")

    assert connect(launch()).ping()


@pytest.mark.parametrize("fsync", ["always", "everysec", "no"])
def test_fsync_is_what_was_asked_for(launch: Launch, fsync: str) -> None:
    client = connect(launch(fsync=fsync))

    asked = client.config_get("append*", "save", "maxmemory-policy")
    assert asked["appendfsync"] == fsync
    assert (asked["appendonly"], asked["save"], asked["maxmemory-policy"]) == ("yes", "", "noeviction")


def test_a_server_that_ignores_sigterm_goes_all_the_same(launch: Launch, folder: Path) -> None:
    engine = launch(stop_timeout_s=0.1)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)

    engine.stop()

    assert not is_alive(engine.pid)
    assert is_free(folder)


def test_a_server_killed_by_others_is_noticed(launch: Launch) -> None:
    engine = launch()
    assert engine.pid is not None
    assert not engine.has_ended()

    os.kill(engine.pid, signal.SIGKILL)

    assert engine.has_ended(5)


def test_a_killed_watchdog_takes_the_server_with_it(launch: Launch, folder: Path) -> None:
    engine = launch(stop_timeout_s=0.1)
    assert engine.pid is not None
    watchdog = int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(engine.pid)]))

    os.kill(watchdog, signal.SIGKILL)
    engine.stop()

    assert engine.has_ended()
    assert is_free(folder)


def test_memory_is_not_durable_and_says_so(launch: Launch, folder: Path) -> None:
    engine = launch(kind=EngineKind.MEMORY)
    connect(engine).xadd("log", {"n": "1"})
    located = locate(folder)
    engine.stop()
    engine.stop()

    assert located == engine.redis_url
    assert (engine.durable, engine.kind, engine.pid) == (False, EngineKind.MEMORY, None)
    assert engine.has_ended()
    assert is_free(folder)


def test_memory_waits_for_a_client_that_reads_more_slowly_than_it_is_told(launch: Launch) -> None:
    engine = launch(kind=EngineKind.MEMORY)
    size = 8 * 1024 * 1024
    connect(engine).set("big", b"x" * size)
    got = 0
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        slow.connect(("127.0.0.1", urlsplit(engine.redis_url).port))
        slow.sendall(b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n")
        while got < size and (piece := slow.recv(1 << 20)):
            got += len(piece)

    assert got >= size


def test_memory_owns_its_folder_too(launch: Launch) -> None:
    launch(kind=EngineKind.MEMORY)

    with pytest.raises(DataFolderInUse):
        launch()


def test_somebody_elses_server_is_used_as_it_is(launch: Launch, folder: Path) -> None:
    engine = launch(redis_url="rediss://far.example:6380/2")
    engine.stop()

    assert (engine.redis_url, engine.kind) == ("rediss://far.example:6380/2", EngineKind.EXTERNAL)
    assert not engine.has_ended()
    assert not folder.exists()


def test_an_external_server_without_a_url_is_no_server(configure: Configure) -> None:
    with pytest.raises(NoServer, match="redis_url"):
        start(configure(kind=EngineKind.EXTERNAL))
