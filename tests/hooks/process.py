"""A worker process of a test: what it says can be waited for, and its end takes all that it started with it."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Self


class WorkerProcess:
    """A process in a session of its own. Frameworks move their children to other groups, but to no other session."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said = ""
        self._more = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, *argv: str, env: dict[str, str], cwd: Path) -> Self:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *argv, env=env, cwd=cwd, stdout=pipe, stderr=asyncio.subprocess.STDOUT, start_new_session=True
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def said(self) -> str:
        """All that it wrote so far, to stdout and stderr."""
        return self._said

    def children(self) -> list[int]:
        """Return the processes that it started and that still live."""
        return [pid for pid in session_of(self.pid) if pid != self.pid]

    async def says(self, text: str, within_s: float = 30) -> None:
        """Wait until it has written a text."""
        async with asyncio.timeout(within_s), self._more:
            while text not in self._said:
                assert not self._reading.done(), f"the process ended before it said {text!r}:\n{self._said}"
                await self._more.wait()

    async def stop(self, number: int = signal.SIGTERM, within_s: float = 30) -> int:
        """Ask it to end, and return its exit code when it has."""
        self._process.send_signal(number)
        return await asyncio.wait_for(self._process.wait(), within_s)

    async def kill(self) -> None:
        """Kill it and all its children at once, as by kill -9 or the machine's end."""
        while pids := session_of(self.pid):  # a fork may have happened after the look
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while chunk := await self._process.stdout.read(65536):
            self._said += chunk.decode(errors="replace")
            async with self._more:
                self._more.notify_all()
        async with self._more:
            self._more.notify_all()


def session_of(leader: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z" and int(fields[3]) == leader:
                    found.append(int(folder.name))
    return found
