"""`runstore rebuild`."""

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from runstore.cli.exits import Exit, Trouble
from runstore.cli.screen import out
from runstore.cli.target import Config, DataDir, Json, RedisUrl, find_store
from runstore.config import ARCHIVE, Settings

if TYPE_CHECKING:
    from runstore.archive.config import ArchiveConfig
    from runstore.rebuild import Report

Check = Annotated[bool, Parameter(name="--check", help="Only report, which is what is done unless told otherwise.")]
Swap = Annotated[
    bool,
    Parameter(
        name="--swap",
        help="Put what the log tells in the place of the runs that differ. Clients that resume are told to look again.",
    ),
]


def rebuild(
    *,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    check: Check = False,
    swap: Swap = False,
    json: Json = False,
    config: Config = None,
) -> int:
    """Fold the kept log once more, beside the live runs, and report every difference; only --swap changes any.

    Exits with 0 if the runs are what the log tells or were put right, 1 if not, 5 if the store was not reached.
    """
    from runstore.archive.config import ArchiveConfig

    if check and swap:
        raise Trouble("give --check or --swap, not both", Exit.USAGE)
    settings = Settings.load(os.environ, config)
    settings.check_variables({ARCHIVE: ArchiveConfig})
    archive = settings.record(ARCHIVE, ArchiveConfig).beside(data_dir)
    store = find_store(redis_url, data_dir, settings)
    assert store.redis_url is not None
    report = asyncio.run(_rebuild(store.redis_url, store.timeout_s, archive, swap=swap))
    if json:
        out().json(msgspec.json.encode(report))
    else:
        _show(report)
    return Exit.SUCCESS if len(report.differences) <= report.put_right else Exit.FAILED


async def _rebuild(url: str, timeout_s: float, archive: "ArchiveConfig", *, swap: bool) -> "Report":
    from runstore.adapters.store import RedisStore
    from runstore.archive.opening import open_archive
    from runstore.archive.reading import ArchivedStore
    from runstore.rebuild import Rebuild

    async with RedisStore.open(url, timeout_s=timeout_s) as store:
        opened = open_archive(archive)
        archived = ArchivedStore(store, opened).runs if opened is not None else None
        return await Rebuild(store, archived).run(swap=swap)


def _show(report: "Report") -> None:
    screen = out()
    for found in report.differences:
        fields = f" ({', '.join(found.fields)})" if found.fields else ""
        screen.line(f"{found.run_id}  partition {found.partition}: {found.what}{fields}")
    screen.line(
        f"{report.entries} events folded, {report.compared} runs compared, {len(report.differences)} differences"
    )
    if report.archived:
        screen.line(f"{report.archived} of them are in the archive")
    if report.older:
        screen.line(f"{report.older} runs began before the oldest event that is kept, and were left out")
    if report.moving:
        screen.line(f"{report.moving} runs moved on all the time: run this again for them")
    if report.swapped:
        screen.line(f"{report.swapped} runs were put right")
