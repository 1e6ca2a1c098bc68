"""The Celery app of the tests: `celery -A tests.hooks.celery_app` in their workers, `make_app()` in the tests."""

import os
import signal
import time
from typing import Any

from celery import Celery, Task, shared_task
from celery.exceptions import Ignore, Reject

from runstore import current_run
from runstore.hooks.celery import install
from tests.hooks.tasks import config, count, hear, returned, say


class Picky(Exception):
    """An error that cannot be pickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")
        self.hold = lambda: None


@shared_task
def returns(kind: str) -> Any:
    return returned(kind)


@shared_task
def raises(text: str = "no data") -> None:
    raise ValueError(text)


@shared_task
def raises_picky() -> None:
    raise Picky("no", "data")


@shared_task(bind=True, max_retries=3, default_retry_delay=0)
def retries(self: "Task[Any, Any]", failures: int) -> int:
    if self.request.retries < failures:
        raise self.retry(exc=ValueError("no data"))
    return self.request.retries


@shared_task(bind=True, autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
def retries_by_itself(self: "Task[Any, Any]", failures: int) -> int:
    if self.request.retries < failures:
        raise ValueError("no data")
    return self.request.retries


@shared_task
def waits(word: str) -> str:
    say(f"{word} begun")
    hear(word)
    return word


@shared_task
def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(acks_late=True, reject_on_worker_lost=True)
def dies_once() -> int:
    life = count("lives")
    if life == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return life


@shared_task
def sleeps() -> None:
    time.sleep(60)


@shared_task(bind=True, acks_late=True)
def leaves(self: "Task[Any, Any]", how: str) -> Any:
    match how:
        case "ignored":
            raise Ignore("not today")
        case "rejected":
            raise Reject("no use", requeue=False)
        case "put back" if count("times") == 1:
            raise Reject("later", requeue=True)
        case "replaced":
            raise self.replace(returns.s("a number"))
    return how


@shared_task
def is_put_back_in_vain() -> None:
    raise Reject("later", requeue=True)


@shared_task
def adds(x: int, y: int) -> int:
    return x + y


@shared_task
def traced(*_: Any) -> str | None:
    run = current_run()
    return run.traceparent if run is not None else None


@shared_task
def progresses() -> str:
    run = current_run()
    assert run is not None
    run.stdout = "fitted\n"
    run.progress(0.4, "fitting")
    hear("progress seen")
    return run.run_id


def make_app() -> Celery:
    broker = os.environ["SITE_BROKER_URL"]
    made = Celery("forecasts", broker=broker, backend=broker)
    made.conf.broker_connection_retry_on_startup = True
    made.conf.worker_prefetch_multiplier = 1
    made.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 1, "interval_start": 0}}
    install(made, config=config())
    return made


if "SITE_BROKER_URL" in os.environ:
    app = make_app()
