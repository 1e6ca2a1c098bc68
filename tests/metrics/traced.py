"""A program of ours in a process that records spans, as `opentelemetry-instrument` would start it.

`python -m tests.metrics.traced gateway …` is `runstore gateway …`, and `… exec …` the same for a script of a test. Each
span that ends is a line of JSON in the file of SPANS.
"""

import os
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

SPANS = "SPANS"


def record(path: str) -> None:
    """Record the spans of this process from now on."""

    def line(span: ReadableSpan) -> str:
        return span.to_json(indent=None) + "\n"  # type: ignore[arg-type]

    provider = TracerProvider()
    out = open(path, "a")  # noqa: SIM115 - for as long as the process
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out, formatter=line)))
    trace.set_tracer_provider(provider)


if __name__ == "__main__":
    record(os.environ[SPANS])
    from runstore.cli import main

    sys.exit(main(sys.argv[1:]))
