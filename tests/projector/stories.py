"""Short stories for a partition: what is told to the log, entry by entry, at fixed places."""

from typing import Any

from runstore.adapters.store import RedisStore
from tests.projector.builders import event_of, run_id_of

Told = list[dict[bytes, bytes]]
ONE, TWO, THREE = (run_id_of(number, partition=0, partitions=1) for number in (1, 2, 3))
BIG = {"stdout": "x" * 1_100_000, "outputs": {"a": 1}}


def _event(*args: Any, **fields: Any) -> dict[bytes, bytes]:
    return {b"event": event_of(*args, **fields)}


STORIES: dict[str, Told] = {
    "a run that succeeds": [
        _event(ONE, "pending", numbered=True, request={"inputs": {"a": 1}, "queue_timeout_s": 5}, tags=["x"]),
        _event(ONE, "running", attempt=1),
        _event(ONE, "success", output={"stdout": "done", "outputs": {"a": 1}}),
    ],
    "numbered runs and garbage": [
        _event(ONE, "pending", numbered=True, request={}),
        {b"event": b"junk"},
        _event(TWO, "pending", numbered=True, request={}),
        {b"other": b"field"},
        _event(ONE, "cancelled", error_message="asked"),
        _event(THREE, "running", numbered=True, project_name="other"),
        _event(TWO, "running", project_name="other"),
        _event(ONE, "success", output={"stdout": "late"}),
    ],
    "a large output": [_event(ONE, "success", output=BIG), _event(ONE, "success", output=BIG)],
}


async def tell_story(store: RedisStore, story: Told, *, first_ms: int = 1_700_000_000_000) -> None:
    """Put a story into the log of partition 0."""
    for place, fields in enumerate(story):
        flat = [part for item in fields.items() for part in item]
        await store.client.execute_command("XADD", store.meta.keys[0].events, f"{first_ms + place}-0", *flat)
