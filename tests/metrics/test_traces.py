"""One trace, from who asks for a run through gateway and worker to the push, over real processes."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from runstore import telemetry
from tests.cli.processes import PATIENT, environment, run, started, until
from tests.metrics.test_processes import repository

pytest.importorskip("opentelemetry.sdk", reason="pip install 'runstore[test]', or opentelemetry-sdk")
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
PROJECT = """
[projects.forecasts]
repository = "{}"
command = ["python3", "-c", "import os; print(os.environ['TRACEPARENT'])"]
"""
PUBLISHES = """
import os, sys
from tests.metrics.traced import record
record(os.environ["SPANS"])
from opentelemetry import trace
from runstore import Publisher
with trace.get_tracer("mine").start_as_current_span("mine"), Publisher(sys.argv[1], "forecasts") as publisher:
    with publisher.track() as run:
        print(run.run_id)
    try:
        with publisher.track() as run:
            raise ValueError("no data")
    except ValueError:
        pass
"""


class Spans:
    """What was recorded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> list[dict[str, Any]]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.all() if span["name"] == name]


def id_of(span: dict[str, Any]) -> str:
    return str(span["context"]["span_id"]).removeprefix("0x")


def parent_of(span: dict[str, Any]) -> str:
    return str(span["parent_id"]).removeprefix("0x")


def trace_of(span: dict[str, Any]) -> str:
    return str(span["context"]["trace_id"]).removeprefix("0x")


@pytest.mark.slow
@PATIENT
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked for in /proc")
def test_a_run_is_one_trace_from_the_request_through_the_worker_to_the_push(tmp_path: Path, redis_url: str) -> None:
    at = ("--redis-url", redis_url)
    token = run("token", "create", "--name", "all", "--scope", "admin", *at, folder=tmp_path).stdout.strip()
    (tmp_path / "runstore.toml").write_text(PROJECT.format(repository(tmp_path / "model")))
    spans = Spans(tmp_path / "spans")
    traced: dict[str, Any] = {"module": "tests.metrics.traced", "folder": tmp_path, "SPANS": str(tmp_path / "spans")}
    with (
        started("projector", *at, folder=tmp_path),
        started("gateway", "--port", "0", *at, **traced) as gateway,
        started("worker", *at, **traced),
    ):
        request = urllib.request.Request(
            gateway.url + "/v1/runs",
            data=json.dumps({"project_name": "forecasts", "mode": "sync"}).encode(),
            headers={
                "Authorization": f"Bearer {token}",
                "traceparent": TRACEPARENT,
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            ended = json.load(answer)
        assert until(lambda: spans.named("runstore.push") and spans.named("runstore.execute"))

    [submit], [execute], [push] = (spans.named(f"runstore.{name}") for name in ("submit", "execute", "push"))
    assert {trace_of(span) for span in (submit, execute, push)} == {TRACE}
    assert parent_of(submit) == "b7ad6b7169203331"
    assert parent_of(execute) == parent_of(push) == id_of(submit)
    assert ended["output"]["stdout"] == f"00-{TRACE}-{id_of(execute)}-01\n", "the model goes on with the trace"
    assert [span["kind"] for span in (submit, execute, push)] == [
        f"SpanKind.{kind}" for kind in ("SERVER", "CONSUMER", "PRODUCER")
    ]
    assert execute["attributes"]["runstore.outcome"] == push["attributes"]["runstore.status"] == "success"
    assert submit["start_time"] < execute["start_time"] < push["end_time"]
    assert {span["attributes"]["runstore.run_id"] for span in (submit, execute, push)} == {ended["run_id"]}


def test_tracked_work_is_a_span_beneath_the_programs_own(tmp_path: Path, redis_url: str) -> None:
    spans = Spans(tmp_path / "spans")
    done = subprocess.run(
        [sys.executable, "-c", PUBLISHES, redis_url],
        env=environment(SPANS=str(tmp_path / "spans"), XDG_STATE_HOME=os.environ["XDG_STATE_HOME"]),
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )

    [mine], (first, second) = spans.named("mine"), spans.named("runstore.track")
    assert parent_of(first) == parent_of(second) == id_of(mine)
    assert first["attributes"]["runstore.run_id"] == done.stdout.strip()
    assert (first["status"]["status_code"], second["status"]["status_code"]) == ("UNSET", "ERROR")
    assert "no data" not in (tmp_path / "spans").read_text()


def test_nothing_is_recorded_or_imported_where_nobody_set_it_up() -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, runstore, runstore.telemetry as t; s = t.begin('x', run_id='r'); s.fail('y'); s.end();"
            "print(t.is_on(), s.traceparent, t.current_traceparent(), 'opentelemetry' in sys.modules)",
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )

    assert told.stdout == "False None None False\n"
    assert telemetry.begin("x").traceparent is None
