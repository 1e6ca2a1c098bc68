"""`runstore demo`: everything `dev` does in a folder of its own, one run of the sample, and nothing left behind."""

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import uuid4

import msgspec
from cyclopts import Parameter

from runstore.cli import journal
from runstore.cli.dev import LOG, explained, plan, warn_of_memory
from runstore.cli.exits import Exit, Trouble
from runstore.cli.screen import Screen, err, out
from runstore.cli.signals import run_until_asked
from runstore.cli.view import STYLES, pretty
from runstore.config import LogSettings, Settings
from runstore.core.status import Status

if TYPE_CHECKING:
    from runstore.client import AsyncClient, Run
    from runstore.dev import DevConfig

_PROJECT: Final = "forecasts"
_INPUTS: Final[dict[str, Any]] = {"horizon": 3}
_PATIENCE_S: Final = 60.0


def demo(
    *,
    data_dir: Annotated[Path | None, Parameter(help="Keep the data here; else nothing is kept.")] = None,
) -> int:
    """Run the sample once, over HTTP, while a websocket subscriber listens, and show what happens as it happens.

    It has a port, a store and a folder of its own, so that nothing of yours is touched. The last it prints is the
    get_run answer.
    """
    from runstore.engine.folder import make

    with _folder(data_dir) as folder:
        # of no settings file and no variables: a demo must not end up in somebody's store
        wanted = plan(Settings({}, folder, {}), data_dir=folder, gateway={"port": 0})
        make(folder)
        journal.to_file(folder / LOG, LogSettings())
        with explained("127.0.0.1"):
            returned, asked = run_until_asked(lambda: _demo(wanted, out()))
    if asked is not None:
        return Exit.INTERRUPTED if asked is signal.SIGINT else 128 + asked
    return Exit.FAILED if returned is None else returned


async def _demo(wanted: "DevConfig", screen: Screen) -> int:
    from runstore.client import AsyncClient
    from runstore.dev import bring_up

    begin = time.monotonic()
    screen.line("starting a store, a projector, a gateway and a worker …")
    async with bring_up(wanted) as dev:
        screen.line(f"ready after {_ms(begin)}: {dev.endpoints.url}, store {dev.engine.kind.value}")
        if not dev.keeps_data:
            warn_of_memory(err())
        screen.line()
        async with AsyncClient(dev.endpoints.url, token=dev.endpoints.token) as client:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    run = await _one_run(client, screen)
            except TimeoutError:
                raise Trouble(f"the run has not ended within {_PATIENCE_S:g} s", Exit.FAILED) from None
            screen.line()
            screen.line(("get_run", "bold"), (f"  GET /v1/runs/{run.run_id[:8]}", "dim"))
            run = await client.get_run(run.run_id[:8])
    if screen.is_terminal:
        screen.line(pretty(run), lines=True)
    else:
        screen.json(run.to_json())
    if run.status is not Status.SUCCESS:
        raise Trouble(f"the sample's run ended as {run.status}: {run.error_message}", Exit.FAILED)
    return Exit.SUCCESS


async def _one_run(client: "AsyncClient", screen: Screen) -> "Run":
    """Subscribe to a run that nobody has heard of yet, ask for it, and tell what is pushed."""
    run_id = str(uuid4())
    async with client.watch(run_id, events="all") as pushes:
        begin = time.monotonic()
        _step(screen, begin, "subscribed", f"websocket, run {run_id[:8]}")
        _step(screen, begin, "submitted", f"POST /v1/runs  {_PROJECT} {msgspec.json.encode(_INPUTS).decode()}")
        await client.run(_PROJECT, _INPUTS, run_id=run_id, tags=["demo"])
        async for run in pushes:
            if run.is_terminal:
                pushed_at = time.time()
                late_ms = (pushed_at - await _recorded_at(client, run_id)) * 1000
                late = f"pushed {max(0.0, late_ms):.0f} ms after the event was recorded"
                _step(screen, begin, run.status.value, late, STYLES[run.status])
                return run
            _step(screen, begin, run.status.value, "pushed", STYLES[run.status])
    raise AssertionError("unreachable: a watch of one run ends with its end")


async def _recorded_at(client: "AsyncClient", run_id: str) -> float:
    """Return when the terminal event was recorded, as a UNIX time."""
    ends = [event for event in await client.events(run_id) if event.status not in {Status.PENDING, Status.RUNNING}]
    return datetime.fromisoformat(ends[0].recorded_at).timestamp()


def _step(screen: Screen, begin: float, what: str, words: str, style: str = "bold") -> None:
    screen.line((f"{_ms(begin):>9}  ", "dim"), (what.ljust(12), style), words)


def _ms(begin: float) -> str:
    return f"{(time.monotonic() - begin) * 1000:.0f} ms"


@contextmanager
def _folder(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        yield data_dir
        return
    scratch = Path(tempfile.mkdtemp(prefix="runstore-demo-"))
    try:
        # within, since the folder of the data is made by whoever owns it
        yield scratch / "data"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
