"""Builders for the worker's tests: commands, witnesses of their processes, repositories."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runstore_worker.held import Command
from runstore_worker.process import Logs, Outcome, execute
from runstore_worker.tail import Tail

PRELUDE = """
import os, signal, sys, time
witness = os.open({fifo!r}, os.O_WRONLY)
def say(text): os.write(witness, text.encode())
def child(work):
    read, write = os.pipe()
    if os.fork() == 0:
        signal.alarm(60)  # should the test fail
        work()
        os.write(write, b"x")
        while True: time.sleep(0.05)
    os.read(read, 1)
def leave():
    os.setsid()
    if os.fork(): os._exit(0)
"""


class Witness:
    """A FIFO that every process of a model holds open: its end of file is the proof that none is left."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def everybody_is_gone(self) -> bool:
        try:
            while os.read(self.fd, 65536):
                pass
        except BlockingIOError:
            return False
        return True

    async def hears(self, word: str) -> None:
        loop = asyncio.get_running_loop()
        heard = ""
        while word not in heard:
            ready = asyncio.Event()
            loop.add_reader(self.fd, ready.set)
            await ready.wait()
            loop.remove_reader(self.fd)
            heard += os.read(self.fd, 4096).decode()

    def argv(self, code: str) -> tuple[str, ...]:
        return (sys.executable, "-c", PRELUDE.format(fifo=str(self.path)) + code)


class Bench:
    """Runs commands in a folder of their own and keeps what they said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cancel = asyncio.Event()
        self.chunks: list[tuple[str, bytes]] = []

    def said(self, stream: str) -> bytes:
        return b"".join(chunk for name, chunk in self.chunks if name == stream)

    async def keep(self, stream: str, chunk: bytes) -> None:
        self.chunks.append((stream, chunk))

    async def run(self, *argv: str, on_chunk=None, keep_bytes=1 << 20, **changes) -> Outcome:
        command = Command(
            **{
                "run_id": "r",
                "argv": argv,
                "cwd": self.folder,
                "env": {"PATH": os.environ["PATH"]},
                "timeout_s": 30,
                "grace_s": 10,
                **changes,
            }
        )
        with (
            Tail(self.folder / "stdout", keep_bytes) as stdout,
            Tail(self.folder / "stderr", keep_bytes) as stderr,
        ):
            self.logs = Logs(stdout=stdout, stderr=stderr)
            outcome = await execute(command, logs=self.logs, on_chunk=on_chunk or self.keep, cancel=self.cancel)
            self.kept = stdout.read()
            return outcome

    async def run_python(self, code: str, **changes) -> Outcome:
        return await self.run(sys.executable, "-c", code, **changes)


class Repo:
    """A git repository somebody else wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        who = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": str(self.path), **who}
        done = subprocess.run(["git", *arguments], cwd=self.path, env=env, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, **files: str) -> str:
        for name, text in files.items():
            (self.path / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def witness(tmp_path: Path):
    made = Witness(tmp_path / "witness")
    yield made
    os.close(made.fd)


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    folder = tmp_path / "bench"
    folder.mkdir()
    return Bench(folder)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "theirs")
