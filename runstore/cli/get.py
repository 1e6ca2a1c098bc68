"""`runstore get`."""

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from runstore.cli.exits import Exit, Trouble, of_statuses
from runstore.cli.screen import out
from runstore.cli.target import Config, Json, Token, Url, connect
from runstore.cli.view import pretty, show_run


def get(
    run: Annotated[str, Parameter(help="A run id, or its first 4 or more hex digits.")],
    /,
    *,
    output: Annotated[str | None, Parameter(help="Print this one of the run's outputs, whole, as JSON.")] = None,
    wait_s: Annotated[float | None, Parameter(help="Wait so many seconds at most for the run to end.")] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    config: Config = None,
) -> int:
    """Look a run up.

    Exits with 0 for a success and for a run that has not ended, 1 for a failure, 3 timed out, 4 cancelled; 2 not
    found, 5 not reached.
    """
    if wait_s is not None and not 0 <= wait_s <= 30 * 24 * 3600:
        raise Trouble("--wait-s is a number of seconds from 0 on, at most 30 days of them")
    return asyncio.run(_get(run, output=output, wait_s=wait_s, json=json, url=url, token=token, config=config))


async def _get(
    run_id: str,
    *,
    output: str | None,
    wait_s: float | None,
    json: bool,
    url: str | None,
    token: str | None,
    config: Path | None,
) -> Exit:
    screen = out()
    async with connect(url, token, config) as client:
        if output is None or wait_s:
            run = await client.get_run(run_id, wait_s=wait_s)
        if output is not None:
            value = await client.output(run_id, output)
            if json or not screen.is_terminal:
                screen.json(msgspec.json.encode(value))
            else:
                screen.line(pretty(value), lines=True)
            return Exit.SUCCESS
    if json:
        screen.json(run.to_json())
    else:
        show_run(screen, run)
    return of_statuses([run.status])
