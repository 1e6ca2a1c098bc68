"""The trace that a task is queued in, where opentelemetry-api is there to know of one; it is never required."""

from runstore.publish import current_run
from runstore.telemetry import current_traceparent


def traceparent_here() -> str | None:
    """Return the trace of what is queued here: the current span's, or else that of the run that queues it."""
    run = current_run()
    return current_traceparent() or (run.traceparent if run is not None else None)
