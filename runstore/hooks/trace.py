"""The trace that a task is queued in, where opentelemetry-api is there to know of one; it is never required."""

from runstore.publish import current_run

_SAMPLED_OR_NOT = 0xFF


def current_traceparent() -> str | None:
    """Return the W3C traceparent of the current span, or None where there is no valid one."""
    try:
        from opentelemetry.trace.propagation import get_current_span
    except ImportError:
        return None
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & _SAMPLED_OR_NOT:02x}"


def traceparent_here() -> str | None:
    """Return the trace of what is queued here: the current span's, or else that of the run that queues it."""
    run = current_run()
    return current_traceparent() or (run.traceparent if run is not None else None)
