"""What the tasks of every framework have in common, as their worker processes import it. Imports no framework.

A test and its tasks meet at words: each is a list in the broker, so that they can also while the run store is away.
"""

import os
from typing import Any, Final

import redis

from runstore import PublisherConfig

PROJECT: Final = "forecasts"
HUGE: Final = 65 * 1024 * 1024
"""A string of so many characters is more than an output may hold."""
PATIENCE_S: Final = 30
RETURNS: Final = ("a dict", "nothing", "a number", "bytes", "an object", "too much")


def config() -> PublisherConfig:
    """Return the settings of publishers, whose lease the test chooses (`site.env["SITE_LEASE_S"]`)."""
    return PublisherConfig(lease_s=float(os.environ.get("SITE_LEASE_S", "60")))


def returned(kind: str) -> Any:
    """Return a value of some kind, for a task that returns it."""
    match kind:
        case "a dict":
            return {"revenue": [100, 110, 121]}
        case "a number":
            return 42
        case "bytes":
            return b"\x00\xff"
        case "an object":
            return object()
        case "too much":
            return "x" * HUGE
    return None


def say(word: str) -> None:
    """Let the test go on that hears the word."""
    with _broker() as broker:
        broker.rpush(f"site:{word}", "said")


def hear(word: str, within_s: int = PATIENCE_S) -> None:
    """Wait until the test says the word.

    Raises: TimeoutError.
    """
    with _broker() as broker:
        if broker.blpop([f"site:{word}"], timeout=within_s) is None:
            raise TimeoutError(f"nobody said {word!r}")


def count(name: str) -> int:
    """Count how often this was called with the name, in all processes of the test, this time included."""
    with _broker() as broker:
        return int(broker.incr(f"site:{name}"))


def _broker() -> "redis.Redis[Any]":
    return redis.Redis.from_url(os.environ["SITE_BROKER_URL"], socket_timeout=2 * PATIENCE_S)
