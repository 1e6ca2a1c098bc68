"""The arq jobs of the tests: `arq tests.hooks.arq_app.WorkerSettings` in their workers."""

import asyncio
import os
from typing import Any, ClassVar

from arq import Retry, cron, func
from arq.connections import RedisSettings

from runstore import current_run
from runstore.hooks.arq import install
from tests.hooks.tasks import config, hear, returned, say

Ctx = dict[str, Any]


async def succeed(ctx: Ctx, kind: str) -> Any:
    return returned(kind)


async def fail(ctx: Ctx) -> None:
    raise ValueError("no data")


async def fail_once(ctx: Ctx) -> int:
    if ctx["job_try"] == 1:
        try:
            raise ValueError("no data")
        except ValueError as error:
            raise Retry from error
    return ctx["job_try"]


async def always_retry(ctx: Ctx) -> None:
    raise Retry


async def meet(ctx: Ctx, word: str) -> str:
    current_run().progress(0.4, "fitting")
    say(f"{word}-begun")
    await asyncio.to_thread(hear, f"{word}-goes-on")
    return word


async def wait(ctx: Ctx, word: str) -> None:
    say(f"{word}-begun")
    await asyncio.Event().wait()


async def wait_once(ctx: Ctx, word: str) -> int:
    if ctx["job_try"] == 1:
        await wait(ctx, word)
    return ctx["job_try"]


async def time_out_by_itself(ctx: Ctx) -> None:
    raise TimeoutError("the bank did not answer")


async def tell(ctx: Ctx) -> dict[str, Any]:
    run = current_run()
    run.progress(0.5, "half")
    return {"run_id": run.run_id, "traceparent": run.traceparent}


class Unshowable:
    def __repr__(self) -> str:
        raise ValueError("no repr")


async def return_what_cannot_be_shown(ctx: Ctx) -> Any:
    return Unshowable()


async def queue_another(ctx: Ctx, job_id: str) -> None:
    await ctx["redis"].enqueue_job("succeed", "a number", _job_id=job_id)


async def tick(ctx: Ctx) -> str:
    return ctx["job_id"]


async def on_startup(ctx: Ctx) -> None:
    print("the user's own on_startup was called")


async def on_job_start(ctx: Ctx) -> None:
    print(f"the user's own on_job_start was called for {ctx['job_id']}")


async def on_job_end(ctx: Ctx) -> None:
    print(f"the user's own on_job_end was called for {ctx['job_id']}")
    if os.environ.get("SITE_BAD_END") and ctx["job_try"] == 1:
        raise RuntimeError("on_job_end")


async def after_job_end(ctx: Ctx) -> None:
    print(f"the user's own after_job_end was called for {ctx['job_id']}")


class WorkerSettings:
    functions: ClassVar[list[Any]] = [
        succeed,
        fail,
        fail_once,
        meet,
        wait_once,
        time_out_by_itself,
        tell,
        queue_another,
        return_what_cannot_be_shown,
        "tests.hooks.arq_app.always_retry",
        func(wait, timeout=300),
        func(wait, name="wait_shortly", timeout=0.2),
    ]
    redis_settings = RedisSettings.from_dsn(os.environ.get("SITE_BROKER_URL", "redis://127.0.0.1:1"))
    on_startup = on_startup
    on_job_start = on_job_start
    on_job_end = on_job_end
    after_job_end = after_job_end
    allow_abort_jobs = True
    max_tries = 2
    poll_delay = 0.05


class CronSettings:
    cron_jobs: ClassVar[list[Any]] = [cron(tick, hour=3, run_at_startup=True, job_id="the tick")]
    redis_settings = WorkerSettings.redis_settings
    poll_delay = 0.05


class FirmSettings:
    functions: ClassVar[list[Any]] = [wait]
    redis_settings = WorkerSettings.redis_settings
    poll_delay = 0.05
    retry_jobs = False


if "SITE_BROKER_URL" in os.environ:
    install(WorkerSettings, config=config())
    install(CronSettings, config=config())
    install(FirmSettings, config=config())
