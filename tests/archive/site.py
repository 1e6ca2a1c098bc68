"""A store with an archive in a folder or in S3, runs of every kind, and what outsiders are answered about them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.archive.archiver import Archiver
from runstore.archive.config import ArchiveConfig
from runstore.archive.reading import ArchivedStore
from runstore.core.ids import RunId
from runstore.ports import ListPosition, ListQuery
from runstore.projector import Projector, ProjectorConfig
from tests.gateway.builders import Site, StandIn, site_over
from tests.projector.builders import run_id_of, tell

NOW = ArchiveConfig(url="in tests", retention_s=0, youngest_s=0, at_once=8)
"""Runs may leave the moment they have ended."""


class Attic:
    """A store, its archive, and those who work on both, each doing what it is told to do."""

    def __init__(self, store: RedisStore, archive: Archive) -> None:
        self.store = store
        self.archive = archive
        self.archiver = Archiver(store, archive)
        self.projector = Projector(store, ProjectorConfig(trim_every_commits=10_000), archive=archive)
        self.both = ArchivedStore(store, archive)

    async def tell(self, run_id: RunId, status: str, **fields: Any) -> None:
        await tell(self.store, run_id, status, **fields)

    async def ended(
        self, numbers: Sequence[int], *, project: str = "forecasts", status: str = "success"
    ) -> list[RunId]:
        """Let runs end, in this order."""
        run_ids = [run_id_of(number) for number in numbers]
        for run_id in run_ids:
            await self.tell(run_id, status, project_name=project)
        await self.projector.drain()
        return run_ids

    async def in_redis(self) -> set[bytes]:
        """Name the keys of runs and their outputs."""
        keys = await self.store.client.keys("runstore:{*")
        return {key for key in keys if any(mark in key for mark in (b"}:r:", b"}:o:", b"}:g:", b"}:t:", b"}:tp:"))}

    async def walk(self, limit: int, query: ListQuery | None = None, between: Any = None) -> list[RunId]:
        """Walk through a listing to its end."""
        found: list[RunId] = []
        position: ListPosition | None = None
        while True:
            page = await self.both.runs.list_runs(query or ListQuery(), position, limit)
            found += [run.run_id for run in page.runs]
            assert len(page.runs) <= limit
            if page.next_position is None:
                return found
            assert position is None or page.next_position != position, "the walk stands still"
            position = page.next_position
            if between is not None:
                await between()


@asynccontextmanager
async def doors(attic: Attic) -> AsyncIterator[Site]:
    """Hold a gateway that has seen nothing yet."""
    stand_in = StandIn(attic.store)
    both = ArchivedStore(attic.store, attic.archive)
    stand_in.runs, stand_in.outputs = both.runs, both.outputs  # type: ignore[assignment]
    async with site_over(WithLogs(stand_in, both)) as site:  # type: ignore[arg-type]
        yield site


class WithLogs:
    """A stand-in whose logs are those of both."""

    def __init__(self, stand_in: StandIn, both: ArchivedStore) -> None:
        self._stand_in = stand_in
        self.logs = both.logs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stand_in, name)


async def many_kinds(attic: Attic) -> list[RunId]:
    """Tell of runs of every kind."""
    ids = [run_id_of(number) for number in range(1, 8)]
    small = {"stdout": "hello", "stderr": "", "outputs": {"a": [1, 2], "é": None}}
    large = {"stdout": "x" * 900_000 + "end", "stderr": "y" * 400_000, "outputs": {"big": list(range(60_000))}}
    await attic.tell(ids[0], "pending", tags=["nightly", "ü"], commit_sha="abc1234")
    await attic.tell(ids[0], "running", at="2026-04-28T10:00:00.5+00:00", attempt=1, worker="w1")
    await attic.tell(ids[0], "running", attempt=2, worker="w2")
    await attic.tell(ids[0], "running", attempt=1)
    await attic.tell(ids[0], "success", output=small, commit_sha="66" * 20)
    await attic.tell(ids[1], "success", output=large)
    await attic.tell(ids[2], "failed", error_message="ValueError: no data", output={"stderr": "Traceback …"})
    await attic.tell(ids[3], "failed", error_message="worker lost", project_name="Other/Project")
    await attic.tell(ids[3], "success", output=small, project_name="Other/Project")
    await attic.tell(ids[4], "timed_out", error_message="é" * 5_000)
    await attic.tell(ids[5], "cancelled")
    await attic.tell(ids[6], "pending", numbered=True, request={"inputs": {}})
    await attic.tell(ids[6], "success")
    await attic.projector.drain()
    await attic.store.logs.append_logs(ids[5], [("stdout", b"one\n"), ("stderr", b"two\n"), ("stdout", b"\xff3\n")])
    return ids


PATHS = ("", "/output", "/output/a", "/output/big", "/output/none", "/events", "/logs")


async def answers(attic: Attic, run_ids: Sequence[RunId]) -> dict[str, Any]:
    """Ask a fresh gateway for everything about runs, as outsiders do."""
    found: dict[str, Any] = {}
    async with doors(attic) as site:
        for run_id in run_ids:
            for path in PATHS:
                reply = await site.get(f"/v1/runs/{run_id}{path}")
                told = {name: reply.headers.get(name) for name in ("ETag", "Content-Type", "Cache-Control")}
                found[f"{run_id}{path}"] = reply.status, told, reply.body
            part = await site.get(f"/v1/runs/{run_id}/output", headers={"Range": "bytes=5-1100000"})
            found[f"{run_id} range"] = part.status, part.headers.get("Content-Range"), part.body
            events = await site.get(f"/v1/runs/{run_id}/events", headers={"Accept": "text/event-stream"})
            found[f"{run_id} sse"] = [line for line in events.body.splitlines() if line.startswith(b"data")]
            logs = await site.get(f"/v1/runs/{run_id}/logs", headers={"Accept": "text/event-stream"})
            found[f"{run_id} log sse"] = logs.body
            prefix = await site.get(f"/v1/runs/{run_id[:7]}")
            found[f"{run_id} prefix"] = prefix.status, prefix.headers.get("ETag"), prefix.body
        for query in ("", "?status=failed", "?tag=nightly", "?commit_sha=6666", "?project_name=Other/Project"):
            found[f"list {query}"] = (await site.get(f"/v1/runs{query}")).body
    return found


def shown(answer: Any) -> Any:
    """Read a run out of an answer."""
    return msgspec.json.decode(answer[2])
