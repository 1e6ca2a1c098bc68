"""The taskiq broker of the tests: `taskiq worker tests.hooks.taskiq_app:broker`; a test makes its own with `build`."""

import asyncio
import os
from typing import Any

from taskiq import (
    AsyncBroker,
    Context,
    SimpleRetryMiddleware,
    SmartRetryMiddleware,
    TaskiqDepends,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqResult,
    TaskiqScheduler,
)
from taskiq.exceptions import NoResultError
from taskiq_redis import ListQueueBroker, ListRedisScheduleSource, RedisAsyncResultBackend, RedisStreamBroker

from runstore import current_run
from runstore.hooks.taskiq import install
from tests.hooks.tasks import config, hear, returned, say

CONTEXT = TaskiqDepends()


class Grumbler(TaskiqMiddleware):
    """Comes to grief over every error, as somebody's own middleware may."""

    async def on_error(self, message: TaskiqMessage, result: "TaskiqResult[Any]", exception: BaseException) -> None:
        raise RuntimeError("grumble")


async def nobody() -> None:
    raise LookupError("nobody is there")


NOBODY = TaskiqDepends(nobody)


async def succeed(kind: str) -> Any:
    return returned(kind)


async def fail() -> None:
    raise ValueError("no data")


async def fail_once(context: Context = CONTEXT) -> int:
    if not context.message.labels.get("_retries"):
        raise ValueError("no data")
    return int(context.message.labels["_retries"])


async def requeue_once(context: Context = CONTEXT) -> int:
    if not context.message.labels.get("X-Taskiq-requeue"):
        await context.requeue()
    return 2


async def reject(context: Context = CONTEXT) -> None:
    context.reject()


async def keep_nothing() -> None:
    raise NoResultError


async def depend(somebody: None = NOBODY) -> None:
    return None


async def meet(word: str) -> str:
    current_run().progress(0.4, "fitting")
    say(f"{word}-begun")
    await asyncio.to_thread(hear, f"{word}-goes-on")
    return word


async def wait(word: str) -> None:
    say(f"{word}-begun")
    await asyncio.Event().wait()


async def cancel_itself() -> None:
    raise asyncio.CancelledError


async def time_out_by_itself() -> None:
    raise TimeoutError("the bank did not answer")


def tell_in_a_thread() -> dict[str, Any]:
    run = current_run()
    run.progress(0.5, "half")
    return {"run_id": run.run_id, "traceparent": run.traceparent}


async def tell() -> dict[str, Any]:
    return tell_in_a_thread()


async def queue_another(task_id: str, context: Context = CONTEXT) -> None:
    await context.broker.find_task("tell").kicker().with_task_id(task_id).kiq()


TASKS = {
    function.__name__: function
    for function in (
        succeed,
        fail,
        fail_once,
        requeue_once,
        keep_nothing,
        reject,
        depend,
        meet,
        wait,
        cancel_itself,
        time_out_by_itself,
        tell,
        tell_in_a_thread,
        queue_another,
    )
}
"""By name: taskiq gives the functions themselves other ones."""


def build(url: str) -> AsyncBroker:
    """Make a broker, with what SITE_RETRY and the like ask for; redis 8 would end its blocking reads after 5 s."""
    kind = RedisStreamBroker if os.environ.get("SITE_STREAM") else ListQueueBroker
    broker = kind(url, socket_timeout=None).with_result_backend(RedisAsyncResultBackend(url, result_ex_time=600))
    if os.environ.get("SITE_GRUMBLER"):
        broker.add_middlewares(Grumbler())
    match os.environ.get("SITE_RETRY", ""):
        case "":
            broker.add_middlewares(SimpleRetryMiddleware(default_retry_count=2))
        case "with a result":
            broker.add_middlewares(SimpleRetryMiddleware(default_retry_count=2, no_result_on_retry=False))
        case "smart":
            broker.add_middlewares(SmartRetryMiddleware(default_retry_count=2, default_delay=0))
        case "scheduled" | "scheduled with a result" as name:
            source = ListRedisScheduleSource(url)
            no_result = name == "scheduled"
            broker.add_middlewares(
                SmartRetryMiddleware(
                    default_retry_count=2, default_delay=0, schedule_source=source, no_result_on_retry=no_result
                )
            )
    install(broker, config=config())
    if os.environ.get("SITE_RETRY") == "added later":
        broker.add_middlewares(SimpleRetryMiddleware(default_retry_count=2))
    for name, function in TASKS.items():
        broker.task(task_name=name)(function)
    return broker


if "SITE_BROKER_URL" in os.environ:
    broker = build(os.environ["SITE_BROKER_URL"])
    scheduler = TaskiqScheduler(broker, [ListRedisScheduleSource(os.environ["SITE_BROKER_URL"])])
