"""Folders, ports and servers that are not as they should be."""

import os
import socket
from pathlib import Path

import pytest
from engine_builders import Configure, Launch, connect, is_alive, is_free, program

from runstore.engine import engine as engine_module
from runstore.engine import start
from runstore.engine.address import pick_port
from runstore.engine.errors import DataFolderUnusable, PortTaken, ServerFailed


def test_a_file_in_the_place_of_the_folder_is_named(launch: Launch, folder: Path) -> None:
    folder.write_text("")

    with pytest.raises(DataFolderUnusable) as unusable:
        launch()

    assert str(unusable.value) == f"the data folder {folder} cannot be used: it is a file, not a folder"


def test_a_file_in_the_path_of_the_folder_is_named(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DataFolderUnusable, match="a part of its path is a file"):
        launch(data_dir=tmp_path / "file" / "sub")


def test_a_name_too_long_for_the_system_is_told(launch: Launch, tmp_path: Path) -> None:
    with pytest.raises(DataFolderUnusable, match="name too long"):
        launch(data_dir=tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("there_already", [True, False])
def test_a_folder_that_cannot_be_written_is_told(launch: Launch, folder: Path, there_already: bool) -> None:
    closed = folder if there_already else folder.parent / "closed"
    closed.mkdir()
    closed.chmod(0o500)

    with pytest.raises(DataFolderUnusable, match="Permission denied"):
        launch(data_dir=closed if there_already else closed / "sub")


@pytest.mark.parametrize("closed", ["redis-password", "engine.log", "lock", "engine.json.new"])
def test_a_part_of_the_folder_that_cannot_be_written_is_told(launch: Launch, folder: Path, closed: str) -> None:
    (folder / closed / "in the way").mkdir(parents=True)
    (folder / f"{closed}.1").write_text("")

    with pytest.raises(DataFolderUnusable):
        launch()

    if closed != "lock":
        assert is_free(folder)


@pytest.mark.parametrize(
    "name", ["with spaces", "quote ' \" and \\ and %s", "new\nline", "ünï-код", "/".join(["d" * 200] * 15)]
)
def test_a_folder_may_be_called_anything(launch: Launch, tmp_path: Path, name: str) -> None:
    engine = launch(data_dir=tmp_path / name)
    connect(engine).set("k", "v")
    engine.stop()

    assert connect(launch(data_dir=tmp_path / name)).get("k") == b"v"


def _incremental_file(folder: Path) -> Path:
    (found,) = folder.glob("appendonlydir/*.incr.aof")
    return found


def test_a_log_cut_short_loses_its_last_command_only(launch: Launch, folder: Path) -> None:
    engine = launch()
    connect(engine).mset({"kept": "1"})
    connect(engine).mset({"lost": "2"})
    engine.stop()
    file = _incremental_file(folder)
    os.truncate(file, file.stat().st_size - 3)

    assert connect(launch()).keys() == [b"kept"]


def test_a_log_that_is_corrupt_in_the_middle_says_why_nothing_starts(launch: Launch, folder: Path) -> None:
    engine = launch()
    connect(engine).mset({"first": "1", "second": "2"})
    engine.stop()
    file = _incremental_file(folder)
    file.write_bytes(file.read_bytes().replace(b"*5\r\n", b"*x\r\n"))

    with pytest.raises(ServerFailed, match="Bad file format reading the append only file"):
        launch()

    assert is_free(folder)


def test_a_port_lost_to_somebody_else_is_replaced_by_another(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody_else:
        taken = somebody_else.getsockname()[1]
        ports = [taken, taken]
        monkeypatch.setattr(engine_module, "pick_port", lambda folder: ports.pop() if ports else pick_port(folder))
        monkeypatch.setattr("runstore.engine.process._ASK_S", 0.05)
        engine = launch()

    assert ports == []
    assert connect(engine).ping()


def test_a_port_that_is_lost_every_time_ends_in_an_error(
    launch: Launch, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "redis-server", version="7.2.0", body="echo bind: Address already in use; exit 1")
    monkeypatch.setattr(engine_module, "_PORT_TRIES", 2)

    with pytest.raises(PortTaken):
        launch(search_path=str(tmp_path), kind="installed")

    assert is_free(folder)


def test_another_server_on_the_port_is_not_taken_for_ours(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = launch(data_dir=tmp_path / "stranger")
    port = connect(stranger).connection_pool.connection_kwargs["port"]
    ports = [port]
    monkeypatch.setattr(engine_module, "pick_port", lambda folder: ports.pop() if ports else pick_port(folder))

    assert connect(launch()).connection_pool.connection_kwargs["port"] != port


def test_a_server_that_never_answers_is_given_up_and_stopped(
    configure: Configure, folder: Path, tmp_path: Path
) -> None:
    program(tmp_path / "redis-server", version="7.2.0", body="echo $$ > ../pid; echo thinking; exec sleep 50")
    hanging = configure(search_path=str(tmp_path), kind="installed", start_timeout_s=0.8)

    with pytest.raises(ServerFailed, match=r"(?s)was not ready in time.*thinking"):
        start(hanging)

    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert is_free(folder)
