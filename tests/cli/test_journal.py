"""The log of the services: lines for people or JSON, the same events and fields, and no token in either."""

import json
import logging
import sys
from pathlib import Path

import pytest

from runstore.cli.journal import JsonLines, Lines
from tests.cli.processes import PATIENT, run, started, until

TOKEN = "rst_tExHLSnnfTeg8KShw3mNolm25qEtnO3Vv3TT"


def record(event: str, /, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("runstore.gateway", logging.WARNING, "file.py", 1, event, (), None)
    made.__dict__.update(fields)
    return made


def test_a_line_of_json_has_the_event_and_its_fields() -> None:
    line = JsonLines().format(
        record("outbox_full", held_bytes=7, share=0.5, partitions=[1, 2], why=None, peer="a\nb", odd=float("inf"))
    )

    told = json.loads(line)
    assert "\n" not in line
    assert told.pop("at").endswith("+00:00")
    assert told == {
        "level": "warning",
        "logger": "runstore.gateway",
        "event": "outbox_full",
        "held_bytes": 7,
        "share": 0.5,
        "partitions": [1, 2],
        "why": None,
        "peer": "a\nb",
        "odd": "inf",
    }


def test_a_field_cannot_hide_what_the_line_is_about() -> None:
    told = json.loads(JsonLines().format(record("run_reaped", event="mine", level=3)))

    assert (told["event"], told["event_"], told["level"], told["level_"]) == ("run_reaped", "mine", "warning", 3)


@pytest.mark.parametrize("formatter", [Lines(), JsonLines()])
def test_no_token_is_logged_in_a_field_or_a_traceback(formatter: logging.Formatter) -> None:
    try:
        raise ValueError(f"Bearer {TOKEN}")
    except ValueError:
        made = record(f"said {TOKEN}", reason=f"it was {TOKEN}", several=[TOKEN])
        made.exc_info = sys.exc_info()

    line = formatter.format(made)

    assert TOKEN not in line
    assert "ValueError" in line


@PATIENT
def test_a_gateway_logs_its_requests_as_json_where_the_settings_say_so(tmp_path: Path, redis_url: str) -> None:
    at = ("--redis-url", redis_url)
    token = run("token", "create", "--name", "all", "--scope", "admin", *at, folder=tmp_path).stdout.strip()
    settings = {"RUNSTORE_LOG_FORMAT": "json", "RUNSTORE_LOG_ACCESS": "true"}
    with started("gateway", "--port", "0", *at, folder=tmp_path, **settings) as gateway:
        gateway.ask("/v1/runs?limit=3", token=token)
        assert until(lambda: '"event":"request"' in gateway.stderr)
        lines = [json.loads(line) for line in gateway.stderr.splitlines()]

    [line] = lines
    assert (line["path"], line["status"], line["method"]) == ("/v1/runs", 200, "GET")
    assert len(line["request_id"]) == 16
    assert token not in gateway.stderr


@PATIENT
def test_a_way_to_log_that_there_is_not_is_refused(tmp_path: Path, redis_url: str) -> None:
    told = run("projector", "--redis-url", redis_url, "--log-format", "xml", folder=tmp_path)
    by_variable = run("projector", "--redis-url", redis_url, folder=tmp_path, RUNSTORE_LOG_FORMAT="xml")

    assert (told.returncode, by_variable.returncode) == (2, 2)
    assert "RUNSTORE_LOG_FORMAT" in by_variable.stderr
