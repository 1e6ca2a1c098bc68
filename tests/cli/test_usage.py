"""What a user types wrong, and what help says."""

import pytest

from runstore.cli.run import read_inputs
from tests.cli.command import Command

COMMANDS = "demo dev gateway projector worker run get list watch cancel logs exec mcp token archive rebuild doctor"
COMMANDS += " bench"


@pytest.mark.parametrize("name", COMMANDS.split())
def test_every_command_has_help(name: str, command: Command) -> None:
    said = command(name, "--help")

    assert said.code == 0
    assert f"runstore {name}" in said.out
    assert name in command("--help").out


@pytest.mark.parametrize("name", ["backup"])
def test_a_command_that_there_is_not_is_not_shown(name: str, command: Command) -> None:
    assert f" {name} " not in command("--help").out
    assert command(name).code == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gett", "6666"], 'Did you mean "get"?'),
        (["bench", "pulish"], "there is no row pulish: the rows are push, heard"),
        (["get", "6666", "--jsn"], "Did you mean --json?"),
        (["dev", "--prot", "0"], "Did you mean --port?"),
        (["get"], "RUN requires an argument"),
        (["get", "zz", "--url", "http://127.0.0.1:1"], "'zz' is no run id"),
        (["list", "--status", "sucess"], "did you mean success?"),
        (["list", "--limit", "many"], "--limit"),
        (["watch"], "watch either some runs or a project"),
        (["watch", "6666", "--project", "a"], "watch either some runs or a project"),
        (["get", "6666", "--wait-s", "-1"], "--wait-s"),
        (["get", "6666", "--url", "nonsense"], "is no gateway's address"),
        (["get", "6666"], "which gateway?"),
        (["token", "list"], "which store?"),
        (["gateway"], "which store?"),
        (["gateway", "--port", "70000"], "from 0 (any free one) to 65535"),
        (["token", "create", "--name", "a", "--scope", "run:read"], "did you mean runs:read?"),
        (["token", "create", "--name", "a b"], "is no name for a token"),
        (["token", "create", "--name", "a", "--expires", "soon"], "such as 30d"),
        (["token", "create", "--name", "a", "--project", "?"], "is no project name"),
        (["token", "creat", "--name", "a"], 'Did you mean "create"?'),
        (["token", "list", "--redis-url", "http://x"], "Redis URL"),
        (["run", "p", "--input", "horizon", "--url", "http://127.0.0.1:1"], "key=value"),
        (["run", "p", "--inputs", "[1]", "--url", "http://127.0.0.1:1"], "must be a JSON object"),
        (["run", "p", "--inputs", "@no.json"], "cannot be read from no.json"),
        (["run", "p", "--timeout-s", "nan"], "--timeout-s nan"),
        (["run", "p", "--queue-timeout-s", "inf"], "--queue-timeout-s inf"),
        (["list", "forecasts"], "nothing takes 'forecasts'"),
        (["dev", "--token", "short"], "20 to 4096 URL-safe characters"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_and_exits_with_2(words: list[str], sentence: str, command: Command) -> None:
    said = command(*words)

    assert said.code == 2, said
    assert said.out == ""
    assert sentence in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("words", [["list"], ["watch", "6666"], ["token", "list"], ["doctor"]])
def test_a_misspelt_variable_stops_every_command(
    words: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNSTORE_TOKN", "x" * 20)

    said = command(*words)

    assert said.code == 2
    assert "did you mean RUNSTORE_TOKEN?" in said.err


@pytest.mark.parametrize(
    "words", [["get", "6666"], ["list"], ["watch", "6666"], ["cancel", "6666"], ["logs", "6666"], ["run", "p"]]
)
def test_a_gateway_that_is_not_there_exits_with_5(
    words: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstore.cli.target._RETRY_FOR_S", 0.0)

    said = command(*words, "--url", "http://127.0.0.1:1", "--token", "x" * 20)

    assert said.code == 5, said
    assert "cannot be reached" in said.err


@pytest.mark.parametrize("words", [["token", "list"], ["doctor"]])
def test_a_store_that_is_not_there_exits_with_5(words: list[str], command: Command) -> None:
    assert command(*words, "--redis-url", "redis://127.0.0.1:1").code == 5
    assert command(*words, "--data-dir", "nothing-here").code == 5


def test_inputs_are_laid_over_a_whole_object() -> None:
    assert read_inputs('{"a":1,"b":2}', ("b=[3]", "c=text", "d=a=b")) == {"a": 1, "b": [3], "c": "text", "d": "a=b"}
    assert read_inputs(None, ()) is None
