"""`runstore logs`."""

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from runstore.cli.screen import err, out
from runstore.cli.target import Config, Token, Url, connect


def logs(
    run: Annotated[str, Parameter(help="A run id, or its first 4 or more hex digits.")],
    /,
    *,
    follow: Annotated[bool, Parameter(alias="-f", help="Go on until the run has ended.")] = False,
    json: Annotated[bool, Parameter(name="--json", help="Print one JSON object for each piece.")] = False,
    url: Url = None,
    token: Token = None,
    config: Config = None,
) -> int:
    """Show what a run wrote: its stdout on stdout, its stderr on stderr."""
    return asyncio.run(_logs(run, follow=follow, json=json, url=url, token=token, config=config))


async def _logs(
    run_id: str, *, follow: bool, json: bool, url: str | None, token: str | None, config: Path | None
) -> int:
    screens = {"stdout": out(), "stderr": err()}
    async with connect(url, token, config) as client:
        async for stream, text in client.logs(run_id, follow=follow):
            if json:
                screens["stdout"].json(msgspec.json.encode({"stream": stream, "text": text}))
            else:
                screens[stream].raw(text)
    return 0
