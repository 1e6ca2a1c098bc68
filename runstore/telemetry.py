"""Spans of OpenTelemetry, where the program has set it up; nothing is imported and nothing recorded where it has not.

One trace goes from who asks for a run through the gateway and the worker to the push, by the `traceparent` that its
events carry: each part begins its span beneath the one it was told, and tells its own on.
"""

import sys
from time import time_ns
from typing import Any, Final, Literal, Self

from runstore.core.trace import read_traceparent

Kind = Literal["internal", "server", "producer", "consumer"]
_SCOPE: Final = "runstore"
_FLAGS: Final = 0xFF


def is_on() -> bool:
    """Whether spans are recorded in this process: somebody imported OpenTelemetry, and gave it a provider."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    return trace is not None and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def current_traceparent() -> str | None:
    """Return the W3C traceparent of the current span; None where there is none that is valid."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    return _traceparent_of(trace.get_current_span()) if trace is not None else None


class Span:
    """A span that was begun, or none. `traceparent` is what those beneath it are told, None where none is recorded."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Any = None) -> None:
        self._span = span
        self.traceparent = _traceparent_of(span) if span is not None else None

    def note(self, **attributes: str | int) -> None:
        """Say more of it."""
        if self._span is not None:
            for name, value in attributes.items():
                self._span.set_attribute(f"{_SCOPE}.{name}", value)

    def fail(self, reason: str) -> None:
        """Mark it as failed. Needs: a reason without a payload, as an error message of a run is none."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, reason))

    def end(self) -> None:
        """End it; may be called twice."""
        span, self._span = self._span, None
        if span is not None:
            span.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None:
            self.fail(kind.__name__)
        self.end()


def begin(
    name: str, parent: str | None = None, *, kind: Kind = "internal", start_ms: int | None = None, **attributes: Any
) -> Span:
    """Begin a span, beneath `parent` where that is one, else beneath the current one.

    Units: `start_ms` milliseconds since 1970 UTC; now unless told.
    """
    if not is_on():
        return Span()
    from opentelemetry import trace

    span = trace.get_tracer(_SCOPE).start_span(
        name,
        context=_context_of(parent),
        kind=trace.SpanKind[kind.upper()],
        attributes={f"{_SCOPE}.{each}": value for each, value in attributes.items() if value is not None},
        start_time=min(start_ms * 1_000_000, time_ns()) if start_ms is not None else None,
    )
    return Span(span)


def _context_of(parent: str | None) -> Any:
    told = read_traceparent(parent)
    if told is None:
        return None
    from opentelemetry import trace

    _, trace_id, span_id, flags = told.split("-")[:4]
    context = trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16)))
    return trace.set_span_in_context(trace.NonRecordingSpan(context))


def _traceparent_of(span: Any) -> str | None:
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & _FLAGS:02x}"
