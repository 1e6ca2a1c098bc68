"""`runstore list`."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from runstore.cli.screen import err, out
from runstore.cli.target import Config, Json, Token, Url, connect
from runstore.cli.view import rows
from runstore.config import nearest
from runstore.core.errors import InvalidRequest
from runstore.core.status import Status

_HEAD = ("RUN", "#", "PROJECT", "STATUS", "CREATED (UTC)", "COMMIT", "")


def list_runs(
    *,
    project: Annotated[str | None, Parameter(help="Runs of this project only.")] = None,
    status: Annotated[tuple[str, ...], Parameter(help="Runs in this status; may be repeated: any of them.")] = (),
    tag: Annotated[tuple[str, ...], Parameter(help="Runs with this tag; may be repeated: all of them.")] = (),
    commit_sha: Annotated[str | None, Parameter(help="Runs of this commit, or of those that begin so.")] = None,
    created_after: Annotated[str | None, Parameter(help="ISO 8601, such as 2026-04-28T10:00:00+00:00.")] = None,
    created_before: str | None = None,
    finished_after: str | None = None,
    limit: Annotated[int, Parameter(help="Runs on one page, 1 to 200.")] = 50,
    cursor: Annotated[str | None, Parameter(help="Go on from here: the next_cursor of the page before.")] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    config: Config = None,
) -> int:
    """List runs, newest first."""
    for name in status:
        if name not in {known.value for known in Status}:
            raise InvalidRequest(f"there is no status {name!r}{nearest(name, Status)}")
    filters = {
        "project_name": project,
        "status": status,
        "tag": tag,
        "commit_sha": commit_sha,
        "created_after": created_after,
        "created_before": created_before,
        "finished_after": finished_after,
    }
    return asyncio.run(_list(filters, limit=limit, cursor=cursor, json=json, url=url, token=token, config=config))


async def _list(
    filters: dict[str, Any],
    *,
    limit: int,
    cursor: str | None,
    json: bool,
    url: str | None,
    token: str | None,
    config: Path | None,
) -> int:
    async with connect(url, token, config) as client:
        page = await client.list_page(limit=limit, cursor=cursor, **filters)
    screen = out()
    if json:
        screen.json(msgspec.json.encode(page))
        return 0
    if page.runs:
        screen.table(_HEAD, rows(page.runs))
    else:
        err().line(("no run matches", "dim"))
    if page.next_cursor is not None:
        err().line((f"there are more: --cursor {page.next_cursor}", "dim"))
    return 0
