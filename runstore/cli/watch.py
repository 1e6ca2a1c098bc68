"""`runstore watch`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from runstore.cli.exits import Exit, Trouble, of_statuses
from runstore.cli.screen import err, out
from runstore.cli.target import Config, Token, Url, connect
from runstore.cli.view import news
from runstore.core.errors import RunNotFound
from runstore.core.ids import parse_prefix
from runstore.core.status import Status

if TYPE_CHECKING:
    from runstore.client import AsyncClient, Run
    from runstore.core.event import Progress

_WHOLE = 32


def watch(
    *runs: Annotated[str, Parameter(help="Run ids, or their first 4 or more hex digits.")],
    project: Annotated[str | None, Parameter(help="Watch all runs of this project, until Ctrl-C.")] = None,
    all_: Annotated[bool, Parameter(name="--all", help="Tell each transition, not ends only.")] = False,
    json: Annotated[bool, Parameter(name="--json", help="Print each push as one line of JSON.")] = False,
    url: Url = None,
    token: Token = None,
    config: Config = None,
) -> int:
    """Be told as runs end; those that have ended are told at once.

    Exits, when all have ended, with the code of the worst: 1 failed, 3 timed out, 4 cancelled, 0 success; 2 not
    found, 5 not reached.
    """
    if bool(runs) == (project is not None):
        raise Trouble("watch either some runs or a project: `runstore watch RUN…` or `runstore watch --project NAME`")
    work = _watch(runs, project=project, every=all_, json=json, url=url, token=token, config=config)
    return asyncio.run(work)


async def _watch(
    runs: tuple[str, ...],
    *,
    project: str | None,
    every: bool,
    json: bool,
    url: str | None,
    token: str | None,
    config: Path | None,
) -> Exit:
    screen, ended = out(), list[Status]()
    async with connect(url, token, config) as client:
        await look_first(client, runs, project)
        events, told = ("all" if every else "terminal"), _tell_progress if every and not json else None
        async with client.watch(*runs, project_name=project, events=events, on_progress=told) as pushes:  # type: ignore[arg-type]
            what = f"project {project}" if project is not None else f"{len(runs)} run{'s' * (len(runs) > 1)}"
            with err().waiting(f"watching {what}"):
                async for run in pushes:
                    if run.is_terminal:
                        ended.append(run.status)
                    if json:
                        screen.json(run.to_json())
                    else:
                        screen.line(*news(run))
    return of_statuses(ended)


async def look_first(client: "AsyncClient", runs: tuple[str, ...], project: str | None) -> "list[Run]":
    """Look up what is to be watched, so that a gateway that is away or a bad token is told now and not after minutes.

    Raises: what a look-up raises, but for a whole id that nobody has heard of yet.
    """
    if project is not None:
        await client.list_page(limit=1, project_name=project)
    found = []
    for run_id in runs[:1]:
        try:
            found.append(await client.get_run(run_id))
        except RunNotFound:
            if len(parse_prefix(run_id)) < _WHOLE:
                raise
    return found


def _tell_progress(run_id: str, progress: "Progress") -> None:
    done = f"{progress.fraction:.0%}  " if progress.fraction is not None else ""
    err().line((f"{run_id}  {done}{progress.message or ''}", "dim"))
