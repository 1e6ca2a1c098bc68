"""`runstore archive`: move ended runs out of Redis, bring one back, erase for good."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import App, Parameter

from runstore.cli.durations import parse_seconds
from runstore.cli.exits import Exit, Trouble
from runstore.cli.screen import out
from runstore.cli.target import Config, DataDir, Json, RedisUrl, find_store
from runstore.config import ARCHIVE, Settings
from runstore.core.ids import check_project_name

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore
    from runstore.archive.archive import Archive
    from runstore.core.ids import RunId

app = App(name="archive", help="Move ended runs out of Redis, bring one back, erase for good, know them again.")
_MANY = 11
_DIGITS = 32
_Run = Annotated[str, Parameter(help="The run's id, or its first digits.")]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which store, and which archive of it."""

    url: Annotated[
        str | None, Parameter(help="The archive: a folder, s3://…, gs://… or az://… [RUNSTORE_ARCHIVE_URL].")
    ] = None
    redis_url: RedisUrl = None
    data_dir: DataDir = None
    config: Config = None


_HERE = Place()
_At = Annotated[Place, Parameter(name="*")]


@app.default
def move(
    *,
    older_than: Annotated[
        str | None, Parameter(help="Move runs that ended longer ago, such as 30d; `retention_s` unless told.")
    ] = None,
    json: Json = False,
    at: _At = _HERE,
) -> int:
    """Move ended runs into the archive, now: those past their time, then those that memory asks for.

    Exits with 0 if all of them were moved, 1 if some could not be moved, 5 if the store was not reached.
    """
    from runstore.archive.archiver import Archiver, Moved

    asked_s = parse_seconds(older_than, "--older-than") if older_than is not None else None

    async def work() -> Moved:
        async with _opened(at) as (store, archive):
            if asked_s is None and not archive.config.moves_by_itself:
                raise Trouble("which runs? Give --older-than, or set retention_s or memory of [archive]")
            archiver = Archiver(store, archive)
            return await (archiver.move(asked_s) if asked_s is not None else archiver.move_due())

    moved = asyncio.run(work())
    if json:
        out().json(msgspec.json.encode(moved._asdict()))
    else:
        out().line(f"{moved.moved} runs moved" + (f", {moved.failed} could not be moved" if moved.failed else ""))
    return Exit.FAILED if moved.failed else Exit.SUCCESS


@app.command
def restore(
    run: _Run,
    *,
    at: _At = _HERE,
) -> int:
    """Bring a run back into Redis, where it stays for `restored_s` at least; its copy in the archive stays too."""
    from runstore.archive.restoring import restore as bring_back

    async def work() -> "tuple[RunId, bool]":
        async with _opened(at) as (store, archive):
            run_id = await _resolve(store, archive, run)
            return run_id, await bring_back(store, archive, run_id)

    run_id, is_back = asyncio.run(work())
    out().line(f"{run_id} is back" if is_back else f"{run_id} is in Redis already")
    return Exit.SUCCESS


@app.command
def delete(
    run: Annotated[str | None, Parameter(help="The run's id, or its first digits.")] = None,
    *,
    project: Annotated[str | None, Parameter(help="Erase every run of this project, and its name.")] = None,
    yes: Annotated[bool, Parameter(name="--yes", help="Do it; without this, only say what would be erased.")] = False,
    json: Json = False,
    at: _At = _HERE,
) -> int:
    """Erase a run or a project everywhere, for good: archive, Redis, log, gateways' memory. Nothing brings it back."""
    from runstore.archive.erasing import Erased, Eraser

    if (run is None) == (project is None):
        raise Trouble("give a run or --project, and not both")
    name = check_project_name(project) if project is not None else None

    async def work() -> "Erased | str":
        async with _opened(at) as (store, archive):
            eraser = Eraser(store, archive)
            if name is not None:
                return await eraser.project(name) if yes else f"every run of the project {name}"
            run_id = await _resolve(store, archive, run or "")
            return await eraser.run(run_id) if yes else f"the run {run_id}"

    erased = asyncio.run(work())
    if isinstance(erased, str):
        raise Trouble(f"this would erase {erased}, for good: give --yes to do it")
    if json:
        out().json(msgspec.json.encode(erased))
    else:
        runs = f"{erased.runs} runs of {erased.project_name}"
        what = f"the run {erased.run_id}" if erased.run_id is not None else runs
        out().line(f"erased {what}, and {erased.log_entries} entries of the log")
    return Exit.SUCCESS


@app.command
def reindex(
    *,
    json: Json = False,
    at: _At = _HERE,
) -> int:
    """Let a Redis that was emptied, replaced or restored know what the archive has; may be repeated at any time."""
    from runstore.archive.reindexing import Reindexed, Reindexer

    async def work() -> Reindexed:
        async with _opened(at) as (store, archive):
            return await Reindexer(store, archive).run()

    done = asyncio.run(work())
    if json:
        out().json(msgspec.json.encode(done))
        return Exit.SUCCESS
    out().line(f"{done.runs} runs of {done.projects} projects are known, {done.learnt} of them were not before")
    if done.erased_unknown:
        out().line(f"{done.erased_unknown} runs were erased by an earlier version: late events may begin them again")
    return Exit.SUCCESS


@asynccontextmanager
async def _opened(at: Place) -> "AsyncIterator[tuple[RedisStore, Archive]]":
    from runstore.adapters.store import RedisStore
    from runstore.archive.config import ArchiveConfig
    from runstore.archive.opening import open_archive

    settings = Settings.load(os.environ, at.config)
    settings.check_variables({ARCHIVE: ArchiveConfig})
    archiving = settings.record(ARCHIVE, ArchiveConfig, {"url": at.url}).beside(at.data_dir)
    store = find_store(at.redis_url, at.data_dir, settings)
    archive = open_archive(archiving)
    if archive is None:
        raise Trouble("which archive? Give --url, or set RUNSTORE_ARCHIVE_URL, or write a table [archive] with url")
    async with RedisStore.open(store.redis_url or "", **store.opening()) as opened:
        yield opened, archive


async def _resolve(store: "RedisStore", archive: "Archive", text: str) -> "RunId":
    from runstore.archive.reading import ArchivedStore
    from runstore.core.errors import AmbiguousRunId
    from runstore.core.ids import parse_prefix, parse_run_id
    from runstore.resolve import not_found

    digits = parse_prefix(text)
    if len(digits) == _DIGITS:
        return parse_run_id(text)
    found = await ArchivedStore(store, archive).runs.find(digits, None, _MANY)
    if not found:
        raise not_found(text)
    if len(found) > 1:
        raise AmbiguousRunId(f"{text!r} begins more than one run id: give more of its digits", tuple(found[:-1]))
    return found[0]
