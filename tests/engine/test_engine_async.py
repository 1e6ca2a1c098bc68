"""The engine as an asynchronous context."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from engine_builders import Configure, connect, is_free

from runstore.engine import EngineKind, running
from runstore.engine.errors import NoServer


@pytest.mark.parametrize("kind", [EngineKind.WHEEL, EngineKind.MEMORY])
async def test_an_engine_runs_for_the_length_of_the_context(
    configure: Configure, folder: Path, kind: EngineKind
) -> None:
    async with running(configure(kind=kind)) as engine:
        answered = await asyncio.to_thread(connect(engine).ping)

    assert answered
    assert engine.has_ended()
    assert is_free(folder)


async def test_an_error_at_the_start_comes_through(configure: Configure) -> None:
    with pytest.raises(NoServer):
        async with running(configure(kind=EngineKind.INSTALLED)):
            pass


async def test_being_cancelled_while_starting_leaves_nothing(configure: Configure, folder: Path) -> None:
    async def hold() -> None:
        async with running(configure()):
            await asyncio.Event().wait()

    holder = asyncio.ensure_future(hold())
    while not (folder / "engine.log").exists():  # noqa: ASYNC110  # a file tells no event
        await asyncio.sleep(0.001)
    holder.cancel()

    with pytest.raises(asyncio.CancelledError):
        await holder
    assert is_free(folder)


async def test_whoever_waits_for_the_end_is_told_of_a_crash(configure: Configure) -> None:
    async with running(configure()) as engine:
        waiting = asyncio.ensure_future(engine.until_ended())
        await asyncio.sleep(0)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)

        await asyncio.wait_for(waiting, 5)
        await engine.until_ended()


@pytest.mark.parametrize("kind", [EngineKind.WHEEL, EngineKind.MEMORY])
async def test_whoever_waits_for_the_end_is_told_of_a_stop(configure: Configure, kind: EngineKind) -> None:
    async with running(configure(kind=kind)) as engine:
        waiting = asyncio.ensure_future(engine.until_ended())
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.stop)

        await asyncio.wait_for(waiting, 5)
        await engine.until_ended()
