"""`runstore cancel`."""

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from runstore.cli.screen import err, out
from runstore.cli.target import Config, Json, Token, Url, connect
from runstore.cli.view import news


def cancel(
    run: Annotated[str, Parameter(help="A run id, or its first 4 or more hex digits.")],
    /,
    *,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    config: Config = None,
) -> int:
    """Ask for a run to be cancelled, and show it as it stands; one that has ended stays as it is."""
    return asyncio.run(_cancel(run, json=json, url=url, token=token, config=config))


async def _cancel(run_id: str, *, json: bool, url: str | None, token: str | None, config: Path | None) -> int:
    async with connect(url, token, config) as client:
        run = await client.cancel(run_id)
    screen = out()
    if json:
        screen.json(run.to_json())
        return 0
    screen.line(*news(run))
    if not run.is_terminal:
        err().line(("its worker was asked to stop it: `runstore watch` tells when it has ended", "dim"))
    return 0
