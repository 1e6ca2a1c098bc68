"""What agents are told of the tools, without any of the protocol."""

from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.client.errors import GatewayUnreachable, UnexpectedAnswer
from runstore.core.errors import AmbiguousRunId, InvalidRequest, RunNotFound, RunstoreError
from runstore.core.event import Progress
from runstore.gateway.problems import KINDS
from runstore.mcp.arguments import GetRun, ListRuns, RunProject, read_arguments
from runstore.mcp.failures import failure_of
from runstore.mcp.port import describe
from runstore.mcp.schemas import schema_of
from runstore.mcp.tools import TOOLS
from runstore.metrics.server import CannotListen
from runstore.wire.request import RunBody

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "get_run": [{"run_id": "6666"}, {"run_id": "66666666-6666-6666-6666-666666666666", "wait_s": 50}],
    "get_run_output": [{"run_id": "6666-66"}, {"run_id": "6666", "output_name": None, "encoding": "base64"}],
    "list_runs": [
        {},
        {"status": "failed", "tag": "a", "limit": 200},
        {"status": ["failed", "success"], "tag": [], "created_after": "2026-01-01T00:00:00Z", "project_name": "a/b"},
    ],
    "run": [
        {"project_name": "a"},
        {"project_name": "a", "inputs": {"x": [None]}, "mode": "sync", "timeout_s": 0.5, "tags": ["t"], "branch": "m"},
        {"project_name": "a", "parameters": {}, "commit_sha": "ABCDEF0", "idempotency_key": "k"},
    ],
    "cancel_run": [{"run_id": "ABCD"}],
}
REFUSED: dict[str, list[dict[str, Any]]] = {
    "get_run": [{}, {"run_id": "6666", "wait_s": 50.5}, {"run_id": 6666}, {"run_id": "6666", "wait": 1}],
    "get_run_output": [{"run_id": "6666", "encoding": "hex"}],
    "list_runs": [{"limit": 201}, {"status": "ended"}, {"limit": "5"}],
    "run": [{}, {"project_name": "a", "mode": "later"}, {"project_name": "a", "idempotency_key": ""}],
    "cancel_run": [{}],
}


@pytest.mark.parametrize("name", TOOLS)
def test_every_schema_is_one_object_that_refers_to_nothing(name: str) -> None:
    for kind in (TOOLS[name].arguments, TOOLS[name].answer):
        schema = schema_of(kind)

        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
        assert "$ref" not in str(schema)
        assert list(schema["properties"]) == list(kind.__struct_fields__)


@pytest.mark.parametrize("name", TOOLS)
def test_what_the_schema_takes_is_read_and_what_it_refuses_is_not(name: str) -> None:
    tool, schema = TOOLS[name], jsonschema.Draft202012Validator(schema_of(TOOLS[name].arguments))

    for arguments in EXAMPLES[name]:
        assert schema.is_valid(arguments), arguments
        read_arguments(tool.arguments, name, arguments)
    for arguments in REFUSED[name]:
        assert not schema.is_valid(arguments), arguments
        with pytest.raises(InvalidRequest):
            read_arguments(tool.arguments, name, arguments)


@pytest.mark.parametrize("name", TOOLS)
def test_every_argument_is_described(name: str) -> None:
    properties = schema_of(TOOLS[name].arguments)["properties"]

    assert [argument for argument, schema in properties.items() if not schema.get("description")] == []


def test_the_descriptions_say_when_to_call_and_when_not_to() -> None:
    told = {name: " ".join(tool.description.split()) for name, tool in TOOLS.items()}

    assert 'Use it after run(mode="async")' in told["get_run"]
    assert 'Do not use it after run(mode="sync")' in told["get_run"]
    assert "first 4 or more hex digits" in told["get_run"]
    assert "to discover runs" in told["list_runs"]
    assert "truncated" in told["get_run_output"]
    assert 'mode="async" (the default) answers at once' in told["run"]


def test_a_run_is_asked_for_with_what_http_takes_and_a_key() -> None:
    assert set(RunProject.__struct_fields__) == {*RunBody.__struct_fields__, "idempotency_key"}


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_arguments_of_any_kind_are_read_or_refused_with_a_sentence(value: Any) -> None:
    for name, tool in TOOLS.items():
        for argument in tool.arguments.__struct_fields__:
            try:
                read_arguments(tool.arguments, name, {argument: value})
            except InvalidRequest as error:
                assert error.detail


def test_half_a_surrogate_pair_is_told_as_such() -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        read_arguments(GetRun, "get_run", {"run_id": "\ud800"})


def test_filters_are_written_as_the_parameters_of_a_request() -> None:
    asked = read_arguments(ListRuns, "list_runs", {"status": ["failed", "success"], "tag": "a", "limit": 7})

    assert asked.filters == [("status", "failed"), ("status", "success"), ("tag", "a")]


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (None, "running"),
        (Progress(fraction=None, message=None), "running"),
        (Progress(fraction=0.4, message=None), "running: 40%"),
        (Progress(fraction=0.0, message="fitting"), "running: 0%, fitting"),
        (Progress(fraction=None, message="fitting"), "running: fitting"),
    ],
)
def test_how_a_run_stands_is_said_in_a_few_words(progress: Progress | None, said: str) -> None:
    assert describe("running", progress) == said


def every(kind: type[RunstoreError]) -> list[type[RunstoreError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in every(child))]


def test_every_error_comes_with_a_hint() -> None:
    codes = {kind.code for kind in every(RunstoreError)} & {*KINDS, GatewayUnreachable.code, UnexpectedAnswer.code}

    for kind in every(RunstoreError):
        if kind.code in codes and kind not in (AmbiguousRunId, CannotListen):  # the last is no caller's
            failure = failure_of(kind("why"))
            assert (failure.error, failure.message) == (kind.code, "why")
            assert failure.hint.endswith(".")


def test_a_failure_is_three_fields_and_the_candidates_where_there_are_some() -> None:
    plain = msgspec.json.decode(msgspec.json.encode(failure_of(RunNotFound("no \ud800"))))
    ambiguous = msgspec.to_builtins(failure_of(AmbiguousRunId("more than one", ("a", "b"))))

    assert list(plain) == ["error", "message", "hint"]
    assert plain["message"] == "no \\ud800"
    assert ambiguous["candidates"] == ("a", "b")
