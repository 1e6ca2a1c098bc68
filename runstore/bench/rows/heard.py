"""Submitted to heard, one at a time, beside task queues: a task that does nothing, and its result as each waits for it.

runstore executes nothing here: a worker of a few lines hears of the run by a Redis list and publishes its end, and the
SDK's client, with its websocket, its wait and its answer, is the one that waits. The queues are left at their defaults.
"""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from runstore.bench import peers
from runstore.bench.figures import Found, percentile
from runstore.bench.stage import PROJECT, Stage, connected, new_id
from runstore.client import AsyncClient
from runstore.publish import AsyncPublisher

TITLE = "submitted to heard, one at a time, beside task queues"
_FOLDER = Path(peers.__file__).parent
_PYTHONS = os.environ.get("RUNSTORE_BENCH_PYTHON", sys.executable).split(os.pathsep)
_NODE = os.environ.get("RUNSTORE_BENCH_NODE", str(Path.cwd()))
_LIMIT_S = 120


async def measure(stage: Stage) -> Found:
    """Measure ourselves, then each queue that is installed; RUNSTORE_BENCH_PYTHON (several, as in PATH: they do not
    all agree on one redis-py) and RUNSTORE_BENCH_NODE (a folder with node_modules) say where to look.
    """
    found = Found()
    times = [percentile(took, 50) for took in await _ours(stage)]
    found.ours("runstore, p50", "ms", times)
    for name, (words, count) in _peers(stage).items():
        try:
            rounds = [
                percentile(await asyncio.to_thread(_theirs, stage, words, count), 50) for _ in range(stage.rounds)
            ]
        except (subprocess.SubprocessError, ValueError, OSError) as error:
            found.skipped.append(f"{name}: {_reason(error)}")
            continue
        found.yardstick(f"{name}, p50", "ms", rounds)
        found.at_most(1.0, f"p50: runstore / {name}", times, rounds)
    return found


def _peers(stage: Stage) -> dict[str, tuple[list[str], int]]:
    """Name the queues, their programs, and how many tasks are enough: those that poll take half a second each."""
    many, few = stage.some(200, 20), stage.some(20, 5)
    counts = {"Celery": many, "RQ": few, "arq": few, "SAQ": few, "taskiq": few}
    found = {
        name: ([_python_with(name.lower()), str(_FOLDER / f"{name.lower()}_peer.py")], count)
        for name, count in counts.items()
    }
    return {"BullMQ": ([shutil.which("node") or "node", str(_FOLDER / "bullmq_peer.mjs")], many), **found}


def _python_with(module: str) -> str:
    for python in _PYTHONS:
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0:
            return python
    return _PYTHONS[0]


async def _ours(stage: Stage) -> list[list[float]]:
    rounds: list[list[float]] = []
    async with stage.store() as store, connected(stage.redis_url) as redis:
        token = await stage.token(store)
        with stage.projector(), stage.gateway() as gateway:
            async with (
                AsyncClient(gateway.url, token=token) as client,
                AsyncPublisher(stage.redis_url, PROJECT) as told,
            ):

                async def work() -> None:
                    async with connected(stage.redis_url) as waiting:
                        while True:
                            _, run_id = await waiting.blpop("bench:work", timeout=0)
                            await told.publish(run_id.decode(), "success")

                worker = asyncio.create_task(work())
                for _ in range(stage.rounds + 1):
                    times = []
                    for _ in range(stage.some(200, 20)):
                        run_id, began = new_id(), time.perf_counter()
                        await redis.rpush("bench:work", run_id)
                        await client.wait(run_id, timeout_s=30)
                        times.append((time.perf_counter() - began) * 1000)
                    rounds.append(times)
                worker.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await worker
    return rounds[1:]


def _theirs(stage: Stage, words: list[str], count: int) -> list[float]:
    environ = {**os.environ, "BENCH_REDIS_URL": stage.redis_url, "BENCH_NODE_FOLDER": _NODE}
    with _held([*words, "worker"], environ):
        # the first ones wait for the worker to begin
        for times in (3, count):
            done = subprocess.run(
                [*words, "measure", str(times)],
                env=environ,
                cwd=_FOLDER,
                capture_output=True,
                timeout=_LIMIT_S,
                check=True,
            )
    return [float(value) for value in json.loads(done.stdout)]


@contextlib.contextmanager
def _held(words: list[str], environ: dict[str, str]) -> Iterator[None]:
    nothing = subprocess.DEVNULL
    worker = subprocess.Popen(words, env=environ, cwd=_FOLDER, stdout=nothing, stderr=nothing, start_new_session=True)
    try:
        yield
    finally:
        worker.terminate()
        try:
            worker.wait(10)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _reason(error: Exception) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
    lines = [line for line in (said or b"").decode(errors="replace").splitlines() if "Error" in line]
    return (lines[-1] if lines else str(error))[:160]
