"""The jobs of RQ's tests, and their workers: `rq worker --worker-class tests.hooks.rq_app.ForkingWorker`."""

import os
import signal
import threading
import time
from typing import Any

import rq
from rq import Retry, get_current_job

from runstore import current_run
from runstore.hooks.rq import install
from tests.hooks.tasks import config, count, hear, returned, say


class ForkingWorker(rq.Worker): ...


class InPlaceWorker(rq.SimpleWorker): ...


SPAWNS = hasattr(rq, "SpawnWorker") and not rq.VERSION.startswith("2.")
"""Whether spawned horses are of their worker's class, and so have the hook."""
if SPAWNS:

    class SpawningWorker(rq.SpawnWorker): ...


if "SITE_BROKER_URL" in os.environ:
    install(ForkingWorker, config=config())
    install(InPlaceWorker, config=config())
    if SPAWNS:
        install(SpawningWorker, config=config())


def returns(kind: str) -> Any:
    return threading.Lock() if kind == "a lock" else returned(kind)


def raises(text: str = "no data") -> None:
    raise ValueError(text)


def fails_first(times: int) -> int:
    tries = count(get_current_job().id)
    if tries <= times:
        raise ValueError("no data")
    return tries


def asks_again(times: int) -> Any:
    tries = count(get_current_job().id)
    return Retry(max=2) if tries <= times else tries


def waits(word: str) -> str:
    say(f"{word} begun")
    hear(word)
    return word


def sleeps() -> None:
    time.sleep(60)


def dies(times: int) -> int:
    tries = count(get_current_job().id)
    if tries <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return tries


def adds(x: int, y: int) -> int:
    return x + y


def traced() -> str | None:
    run = current_run()
    return run.traceparent if run is not None else None


def queues() -> str:
    """Queue a job from within a job, with a queue that has the hook."""
    queue = rq.Queue(connection=get_current_job().connection)
    install(queue, config=config())
    return queue.enqueue(traced).id


def progresses() -> str:
    run = current_run()
    assert run is not None
    run.stdout = "fitted\n"
    run.progress(0.4, "fitting")
    hear("progress seen")
    return run.run_id
