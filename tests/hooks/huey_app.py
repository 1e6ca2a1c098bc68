"""The Huey application of the tests. Consumers load it; a test builds its own for the broker of its site."""

import os
import time
from collections.abc import Callable
from typing import Any

from huey import RedisHuey
from huey.exceptions import CancelExecution, RetryTask

from runstore import current_run
from runstore.hooks.huey import install
from tests.hooks.tasks import config, count, hear, returned, say


def build(url: str, **options: Any) -> RedisHuey:
    app = RedisHuey("tests", url=url, **options)
    install(app, config=config())
    return app


def succeed(kind: str) -> Any:
    return returned(kind)


def meet(word: str) -> str:
    say(f"{word}-begun")
    hear(f"{word}-goes-on")
    return word


def halfway(word: str) -> None:
    current_run().progress(0.5, "half")
    hear(f"{word}-goes-on")


def loop(word: str) -> None:
    say(f"{word}-begun")
    while True:
        time.sleep(0.01)


def look_at_the_clock(task: Any) -> None:
    """Work in many small steps, between which it looks whether its time is over, as threads must."""
    while True:
        task.check_timeout()
        time.sleep(0.01)


def fail() -> None:
    raise ValueError("no data")


def fail_at_first(name: str) -> int:
    calls = count(name)
    if calls < 3:
        raise ValueError("no data")
    return calls


def ask_for_more(name: str) -> int:
    calls = count(name)
    if calls == 1:
        raise RetryTask("not yet")
    return calls


def give_up() -> None:
    raise CancelExecution


def tell() -> dict[str, Any]:
    run = current_run()
    return {"run_id": run.run_id, "traceparent": run.traceparent}


def pass_on() -> str:
    task_id: str = tasks.tell().id
    return task_id


def cannot_be_stored() -> Any:
    return (part for part in "abc")


def alone() -> str:
    return "alone"


class Tasks:
    """The tasks of one Huey, named as their functions are."""

    def __init__(self, app: RedisHuey) -> None:
        for work in (
            succeed,
            meet,
            halfway,
            loop,
            fail,
            fail_at_first,
            ask_for_more,
            give_up,
            cannot_be_stored,
            tell,
            pass_on,
        ):
            setattr(self, work.__name__, app.task()(work))
        self.look_at_the_clock = app.task(context=True)(look_at_the_clock)
        locked: Callable[[], str] = app.lock_task("one")(alone)
        self.alone = app.task()(locked)

        @app.pre_execute()
        def gatekeeper(task: Any) -> None:
            if task.kwargs.get("kind") == "nobody's":
                raise CancelExecution


if "SITE_BROKER_URL" in os.environ:
    huey = build(os.environ["SITE_BROKER_URL"], results="SITE_NO_RESULTS" not in os.environ)
    tasks = Tasks(huey)
