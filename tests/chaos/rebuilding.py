"""`runstore rebuild --check`, as anybody may run it, again and again while everything goes wrong.

A store that only moves has no differences; a Redis that is away just now is no difference either.
"""

import asyncio
import subprocess
import sys
from time import monotonic
from typing import Final

import msgspec

from runstore.cli.exits import Exit
from tests.chaos.history import History
from tests.chaos.processes import ROOT
from tests.chaos.site import Site, environment

CHECKED: Final = "rebuild --check finds no difference"
_LEAST_PAUSE_S: Final = 1.0
_LONGEST_S: Final = 120.0


class Found(msgspec.Struct):
    """What one check says, as far as it is looked at."""

    entries: int = 0
    compared: int = 0
    moving: int = 0
    differences: list[dict[str, object]] = []


class Rebuilding:
    """Checks one after another, each a process. `is_exact` false: a log that was written anew differs, and may."""

    def __init__(self, site: Site, history: History, *, is_exact: bool) -> None:
        self.checks = 0
        """Those that came to an end with the store read whole."""
        self.unreached = 0
        self.compared = 0
        self.trouble: list[str] = []
        self._site = site
        self._history = history
        self._is_exact = is_exact

    async def go_on(self) -> None:
        """Check until cancelled; as long as a check takes, as long is the pause after it, for the sake of the rest."""
        while True:
            began = monotonic()
            await self.check()
            await asyncio.sleep(max(_LEAST_PAUSE_S, monotonic() - began))

    async def check(self) -> bool:
        """Check once, and say whether the store was read whole."""
        words = ["-m", "runstore.cli", "rebuild", "--check", "--json", "--redis-url", self._site.server.url]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            async with asyncio.timeout(_LONGEST_S):
                told, error = await process.communicate()
        except TimeoutError:
            self._tell(f"a check took longer than {_LONGEST_S:g} s")
            return False
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return self._judge(process.returncode, told, error.decode(errors="replace"))

    def _judge(self, code: int | None, told: bytes, error: str) -> bool:
        if code == Exit.UNREACHABLE:
            self.unreached += 1
            return False
        if code not in {Exit.SUCCESS, Exit.FAILED} or not told.strip():
            self._tell(f"a check ended with {code}: {error[-300:]}")
            return False
        found = msgspec.json.decode(told, type=Found)
        self.checks += 1
        self.compared += found.compared
        if self._is_exact:
            for each in found.differences:
                self._tell(f"after {found.entries} events, of {found.compared} runs: {each}")
        return True

    def _tell(self, what: str) -> None:
        self.trouble.append(what)
        self._history.hear("chaos", "difference", detail=what[:500])
