"""The Dramatiq application of the tests. Workers load it; a test builds its own for the broker of its site."""

import os
import time
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage, Middleware, SkipMessage
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from runstore import current_run
from runstore.hooks.dramatiq import install
from tests.hooks.tasks import config, hear, returned, say

try:
    from dramatiq.middleware.asyncio import AsyncIO
except ImportError:
    AsyncIO = None
try:
    import dramatiq_abort
    from dramatiq_abort.backends import RedisBackend as AbortBackend
except ImportError:
    dramatiq_abort = None


class Refusal(Exception):
    """What `throws` names in the tests."""


class Gatekeeper(Middleware):
    """Skips or rejects a message that says so, as somebody's own middleware may."""

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        if message.options.get("gate") == "skip":
            raise SkipMessage("not today")
        if message.options.get("gate") == "reject":
            message.fail()


def build(url: str) -> RedisBroker:
    broker = RedisBroker(url=url)
    install(broker, config=config())
    broker.add_middleware(CurrentMessage())
    broker.add_middleware(Gatekeeper())
    if AsyncIO is not None:
        broker.add_middleware(AsyncIO())
    if dramatiq_abort is not None:
        broker.add_middleware(dramatiq_abort.Abortable(backend=AbortBackend.from_url(url)))
    if os.environ.get("SITE_RESULTS"):
        broker.add_middleware(Results(backend=RedisBackend(url=url), store_results=True))
    return broker


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
    """Work in many small steps, between which Dramatiq can raise something."""
    say(f"{word}-begun")
    while True:
        time.sleep(0.01)


def loop_once(word: str) -> None:
    if retries() == 0:
        loop(word)


def fail() -> None:
    raise ValueError("no data")


def fail_once() -> int:
    if retries() == 0:
        raise ValueError("no data")
    return retries()


def retries() -> int:
    count: int = CurrentMessage.get_current_message().options.get("retries", 0)
    return count


def refuse() -> None:
    raise Refusal("not mine")


def tell() -> dict[str, Any]:
    run = current_run()
    return {"run_id": run.run_id, "traceparent": run.traceparent}


def pass_on() -> str:
    message_id: str = dramatiq.get_broker().get_actor("tell").send().message_id
    return message_id


async def tell_async() -> dict[str, Any]:
    return tell()


def declare(broker: RedisBroker) -> None:
    for work in (succeed, meet, halfway, loop, loop_once, fail, fail_once, tell, pass_on):
        dramatiq.actor(work, broker=broker)
    dramatiq.actor(refuse, broker=broker, throws=(Refusal,))
    if AsyncIO is not None:
        dramatiq.actor(tell_async, broker=broker)


if "SITE_BROKER_URL" in os.environ:
    dramatiq.set_broker(build(os.environ["SITE_BROKER_URL"]))
    declare(dramatiq.get_broker())
