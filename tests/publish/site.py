"""A server that a test stops, freezes and starts again, and programs that publish to it."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.engine import Engine, EngineConfig, EngineKind, start
from runstore.projector import Projector
from runstore.publish.spools import waiting
from runstore.wire.event import decode_event

BEGINNING = """
import asyncio, atexit, os, signal, sys, threading, time
from uuid import uuid4
from runstore import AsyncPublisher, Publisher, PublisherConfig
URL = sys.argv[1]
"""


class Site:
    """A server of the test's own at one address, that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self._config = EngineConfig(data_dir=folder, kind=EngineKind.WHEEL)
        self._engine: Engine | None = None
        self.url = ""

    def start(self) -> None:
        self._engine = start(self._config)
        assert self.url in ("", self._engine.redis_url)
        self.url = self._engine.redis_url

    def stop(self) -> None:
        if self._engine is not None:
            self._engine.stop()
        self._engine = None

    def send(self, number: signal.Signals) -> None:
        assert self._engine is not None and self._engine.pid is not None
        os.kill(self._engine.pid, number)

    async def statuses(self, run_id: str) -> list[str]:
        """Fold the log, and return the run's history, but for events that came twice since their answer was late."""
        async with RedisStore.open(self.url) as store:
            await Projector(store).drain()
            return [item.status.value for item in await store.runs.history(RunId(run_id)) if not item.ignored]

    async def logged(self) -> list[str]:
        """Return the ids of all events in the log, each partition's in the order in which they first came."""
        async with RedisStore.open(self.url) as store:
            rows = [row for keys in store.meta.keys for row in await store.client.xrange(keys.events)]
            return list(dict.fromkeys(decode_event(fields[b"event"])[0].event_id or "" for _, fields in rows))


async def program(site: Site, code: str, *args: str, within_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program that has everything imported, and the server's address as URL, to its end.

    Raises: CalledProcessError, TimeoutExpired.
    """
    argv = [sys.executable, "-c", BEGINNING + code, site.url, *args]
    return await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=True, timeout=within_s)


def events_in(folder: Path) -> int:
    return sum(each.events for each in waiting(folder))
