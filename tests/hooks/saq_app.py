"""The SAQ queue of the tests: `saq tests.hooks.saq_app.settings` in workers; a test makes its own with `build`."""

import asyncio
import os
import pickle
from typing import Any

from saq import CronJob, Queue

from runstore import current_run
from runstore.hooks.saq import install
from tests.hooks.tasks import config, hear, returned, say

Ctx = dict[str, Any]


async def succeed(ctx: Ctx, *, kind: str) -> Any:
    return returned(kind)


async def fail(ctx: Ctx) -> None:
    raise ValueError("no data")


async def fail_once(ctx: Ctx) -> int:
    if ctx["job"].attempts == 1:
        raise ValueError("no data")
    return ctx["job"].attempts


async def meet(ctx: Ctx, *, word: str) -> str:
    current_run().progress(0.4, "fitting")
    say(f"{word}-begun")
    await asyncio.to_thread(hear, f"{word}-goes-on")
    return word


async def wait(ctx: Ctx, *, word: str) -> None:
    say(f"{word}-begun")
    await asyncio.Event().wait()


async def wait_once(ctx: Ctx, *, word: str) -> int:
    if ctx["job"].attempts == 1:
        await wait(ctx, word=word)
    return ctx["job"].attempts


async def wait_stubbornly(ctx: Ctx, *, word: str) -> str:
    try:
        await wait(ctx, word=word)
    except asyncio.CancelledError:
        return "not now"
    return ""


async def time_out_by_itself(ctx: Ctx) -> None:
    raise TimeoutError("the bank did not answer")


def tell_in_a_thread(ctx: Ctx) -> dict[str, Any]:
    run = current_run()
    run.progress(0.5, "half")
    return {"run_id": run.run_id, "traceparent": run.traceparent}


async def tell(ctx: Ctx) -> dict[str, Any]:
    return tell_in_a_thread(ctx)


async def tick(ctx: Ctx) -> None:
    say(f"ticked-{ctx['job'].scheduled}")


async def before_process(ctx: Ctx) -> None:
    print(f"the user's own before_process was called for {ctx['job'].key}")


async def after_process(ctx: Ctx) -> None:
    print(f"the user's own after_process was called for {ctx['job'].key}")


def build(url: str) -> Queue:
    serializers: dict[str, Any] = {}
    if os.environ.get("SITE_PICKLE"):
        serializers = {"dump": pickle.dumps, "load": pickle.loads}
    return Queue.from_url(url, **serializers)


settings: dict[str, Any] = {
    "functions": [
        succeed,
        fail,
        fail_once,
        meet,
        wait,
        wait_once,
        wait_stubbornly,
        time_out_by_itself,
        tell,
        tell_in_a_thread,
    ],
    "before_process": before_process,
    "after_process": after_process,
    "timers": {"abort": 0.05, "schedule": 1, "sweep": 1},
}
if "SITE_BROKER_URL" in os.environ:
    settings["queue"] = build(os.environ["SITE_BROKER_URL"])
    if os.environ.get("SITE_CRON"):
        settings["cron_jobs"] = [CronJob(tick, cron="* * * * * */1")]
    install(settings, config=config())
