"""How the hook for arq hears of jobs that are queued, and sends a trace along with them.

The trace lies in the job, beside what arq keeps there and reads. A worker without the hook does not see it.
"""

import functools
import pickle
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from runstore.hooks.reporter import Reporter
from runstore.hooks.trace import traceparent_here

_TRACEPARENT: Final = "traceparent"
_queued_in: Final[ContextVar[str | None]] = ContextVar("runstore_arq_queued_in", default=None)
_carried: Final[ContextVar[str | None]] = ContextVar("runstore_arq_carried", default=None)


def join_pool(pool: Any, reporter: Reporter) -> None:
    """Tell of what is queued with an ArqRedis."""
    enqueue: Callable[..., Awaitable[Any]] = pool.enqueue_job

    @functools.wraps(enqueue)
    async def enqueue_job(function: str, *args: Any, _traceparent: str | None = None, **kwargs: Any) -> Any:
        traceparent = _traceparent if isinstance(_traceparent, str) else traceparent_here()
        token = _queued_in.set(traceparent)
        try:
            job = await enqueue(function, *args, **kwargs)
        finally:
            _queued_in.reset(token)
        if job is not None:
            reporter.queued(job.job_id, traceparent=traceparent)
        return job

    pool.enqueue_job = enqueue_job
    pool.job_serializer = carrying(pool.job_serializer)


def carrying(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    def write(data: Any) -> bytes:
        traceparent = _queued_in.get()
        if traceparent is not None and isinstance(data, dict) and "r" not in data:
            data = {**data, _TRACEPARENT: traceparent}
        return (serialize or pickle.dumps)(data)

    return write


def reading(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def read(raw: bytes) -> Any:
        data = (deserialize or pickle.loads)(raw)
        traceparent = data.get(_TRACEPARENT) if isinstance(data, Mapping) else None
        _carried.set(traceparent if isinstance(traceparent, str) else None)
        return data

    return read


def carried_traceparent() -> str | None:
    """Return the trace of the job that was read last in this context."""
    return _carried.get()
