"""Commands that talk to a gateway: what they print, and how they exit."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from runstore.endpoints import Endpoints, claim
from tests.cli.command import Command
from tests.cli.stage import Stage

TEN = (
    *("run_id", "run_number", "project_name", "status", "commit_sha", "started_at", "finished_at"),
    *("error_message", "output", "truncated"),
)


@pytest.fixture(scope="module")
def stage(real_server: str) -> Iterator[Stage]:
    with Stage(real_server) as stage:
        yield stage


@pytest.fixture(autouse=True)
def told_by_variables(stage: Stage, monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    monkeypatch.setenv("RUNSTORE_URL", stage.url)
    monkeypatch.setenv("RUNSTORE_TOKEN", stage.token)


def test_get_as_json_is_the_ten_fields_in_order_on_one_line(stage: Stage, command: Command) -> None:
    run_id = stage.ended(commit_sha="abc1234")

    said = command("get", run_id, "--json")

    assert said.code == 0
    assert said.out.count("\n") == 1
    answer = json.loads(said.out)
    assert tuple(answer) == TEN
    assert said.out == json.dumps(answer, separators=(",", ":")) + "\n"
    assert answer["output"]["outputs"] == {"revenue": [1, 2]}
    assert said.err == ""


def test_get_finds_a_run_by_the_beginning_of_its_id(stage: Stage, command: Command) -> None:
    run_id = stage.ended()

    said = command("get", run_id[:13].upper())

    assert said.code == 0
    assert run_id in said.out
    assert "success" in said.out
    assert "said" in said.out


@pytest.mark.parametrize(
    ("status", "code"),
    [("success", 0), ("failed", 1), ("timed_out", 3), ("cancelled", 4), ("running", 0), ("pending", 0)],
)
def test_the_exit_code_is_the_status(stage: Stage, command: Command, status: str, code: int) -> None:
    assert command("get", stage.ended(status)).code == code


def test_a_run_that_there_is_not_exits_with_2(command: Command) -> None:
    said = command("get", str(uuid4()), "--json")

    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("runstore: ")


def test_an_ambiguous_prefix_names_its_candidates(stage: Stage, command: Command) -> None:
    ids = [stage.publish(f"abcd{number:04d}-0000-4000-8000-000000000000", "running") for number in range(2)]

    said = command("get", "abcd")

    assert said.code == 2
    assert all(run_id in said.err for run_id in ids)


def test_get_waits_for_the_end(stage: Stage, command: Command) -> None:
    run_id = stage.publish(str(uuid4()), "running")
    stage.later(_end(stage, run_id, "failed", error_message="no data"))

    said = command("get", run_id, "--wait-s", "20")

    assert said.code == 1
    assert "no data" in said.out


def test_one_output_is_printed_whole(stage: Stage, command: Command) -> None:
    run_id = stage.ended()

    assert command("get", run_id, "--output", "revenue").out == "[1,2]\n"
    assert command("get", run_id, "--output", "costs").code == 2


def test_escape_codes_of_a_worker_do_nothing_to_a_terminal(stage: Stage, command: Command) -> None:
    run_id = stage.ended("failed", error_message="\x1b]0;owned\x07\x1b[2J")

    said = command("get", run_id)

    assert "\x1b" not in said.out
    assert "\\x1b]0;owned" in said.out


def test_a_wrong_token_exits_with_2_and_is_not_shown(command: Command) -> None:
    said = command("get", "6666", "--token", "not-a-token-of-this-store")

    assert said.code == 2
    assert "token" in said.err
    assert "not-a-token-of-this-store" not in said.err


def test_a_token_is_sent_to_no_other_address_than_its_own(
    stage: Stage, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNSTORE_URL", "http://127.0.0.1:1")

    said = command("list", "--url", stage.url)

    assert said.code == 2
    assert "token" in said.err
    assert f"belongs to http://127.0.0.1:1, and goes to no other address: give --token for {stage.url}" in said.err


def test_list_as_json_is_a_page(stage: Stage, command: Command) -> None:
    ids = [stage.ended(tags=["page"]) for _ in range(3)]

    first = json.loads(command("list", "--tag", "page", "--limit", "2", "--json").out)
    rest = json.loads(command("list", "--tag", "page", "--json", "--cursor", first["next_cursor"]).out)

    assert list(first) == ["runs", "next_cursor"]
    assert {run["run_id"] for run in first["runs"] + rest["runs"]} == set(ids)
    assert rest["next_cursor"] is None
    assert set(first["runs"][0]) == {*TEN, "created_at", "tags"} - {"output"}


def test_list_shows_a_line_for_each_run(stage: Stage, command: Command) -> None:
    run_id = stage.ended("failed", tags=["shown"], error_message="first line\nsecond line")

    said = command("list", "--tag", "shown", "--status", "failed", "--project", "forecasts")

    assert said.code == 0
    head, line = said.out.splitlines()
    assert head.startswith("RUN ")
    assert line.startswith(run_id)
    assert "first line\\nsecond line" in line


def test_list_without_a_match_says_so_beside_the_answer(command: Command) -> None:
    said = command("list", "--project", "nobodys")

    assert (said.code, said.out) == (0, "")
    assert "no run" in said.err


def test_a_time_that_is_none_exits_with_2(command: Command) -> None:
    said = command("list", "--created-after", "yesterday")

    assert said.code == 2
    assert "ISO 8601" in said.err


def test_watch_tells_of_runs_that_have_ended_and_exits_with_the_worst(stage: Stage, command: Command) -> None:
    ids = [stage.ended(), stage.ended("cancelled"), stage.ended("timed_out")]

    said = command("watch", *ids, "--json")

    assert said.code == 3
    assert {json.loads(line)["run_id"] for line in said.out.splitlines()} == set(ids)
    assert all(tuple(json.loads(line)) == TEN for line in said.out.splitlines())


def test_watch_is_told_of_the_end_as_it_comes(stage: Stage, command: Command) -> None:
    run_id = stage.publish(str(uuid4()), "pending")
    stage.later(_end(stage, run_id, "running", "success"))

    said = command("watch", run_id, "--all")

    assert said.code == 0
    statuses = [line.split()[1] for line in said.out.splitlines()]
    assert statuses[-1] == "success"
    assert statuses == sorted(statuses, key=["pending", "running", "success"].index)


def test_watch_of_a_prefix_that_matches_nothing_exits_with_2(command: Command) -> None:
    assert command("watch", "00000000").code == 2


def test_run_prints_the_id_alone(stage: Stage, command: Command) -> None:
    stage.serve("forecasts")
    run_id = str(uuid4())

    said = command("run", "forecasts", "--input", "horizon=3", "--tag", "a", "--run-id", run_id)

    assert (said.code, said.out) == (0, f"{run_id}\n")
    assert json.loads(command("get", run_id, "--json").out)["status"] == "pending"


def test_run_and_wait_shows_the_end_and_exits_with_it(stage: Stage, command: Command) -> None:
    stage.serve("forecasts")
    run_id = str(uuid4())
    stage.later(_end(stage, run_id, "running", "failed", after_pending=True, error_message="no data"))

    said = command("run", "forecasts", "--wait", "--json", "--run-id", run_id)

    assert said.code == 1
    assert json.loads(said.out)["error_message"] == "no data"


def test_an_unknown_project_names_the_nearest(stage: Stage, command: Command) -> None:
    stage.serve("forecasts")

    said = command("run", "forecats")

    assert said.code == 2
    assert "did you mean 'forecasts'?" in said.err


def test_inputs_come_from_a_file(stage: Stage, command: Command) -> None:
    stage.serve("forecasts")
    Path("inputs.json").write_text('{"horizon": 3}')

    assert command("run", "forecasts", "--inputs", "@inputs.json").code == 0


def test_inputs_come_from_standard_input(stage: Stage, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.serve("forecasts")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"horizon": 3}')))

    assert command("run", "forecasts", "--inputs", "-").code == 0


def test_cancel_shows_the_run_as_it_stands(stage: Stage, command: Command) -> None:
    run_id = stage.publish(str(uuid4()), "running")

    said = command("cancel", run_id, "--json")

    assert said.code == 0
    assert json.loads(said.out)["run_id"] == run_id
    assert json.loads(command("get", run_id, "--json").out)["status"] == "cancelled"
    assert command("cancel", run_id).code == 0


def test_logs_go_where_the_model_wrote_them_and_into_a_pipe_as_they_are(stage: Stage, command: Command) -> None:
    run_id = stage.publish(str(uuid4()), "running")
    stage.log(run_id, ("stdout", b"\x1b[31mfitting\n"), ("stderr", b"careful\n"))
    stage.later(_end(stage, run_id, "cancelled"))

    said = command("logs", run_id, "--follow")

    assert said.code == 0
    assert said.out == "\x1b[31mfitting\n"
    assert said.err == "careful\n"


def test_a_dev_on_this_folder_is_found_without_being_told(
    stage: Stage, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNSTORE_URL")
    monkeypatch.delenv("RUNSTORE_TOKEN")
    run_id = stage.ended()
    Path(".runstore").mkdir()
    ours = claim(Path(".runstore"))
    assert not isinstance(ours, int)
    ours.publish(Endpoints(url=stage.url, ws_url="", token=stage.token, redis_url=stage.redis_url))

    assert command("get", run_id).code == 0
    assert command("token", "list").code == 0
    assert command("token", "list", "--data-dir", ".runstore").code == 0
    ours.release()
    assert command("get", run_id).code == 2


def test_a_token_is_created_listed_and_revoked(stage: Stage, command: Command) -> None:
    here = ("--redis-url", stage.redis_url)
    made = command("token", "create", "--name", "ci", "--scope", "runs:read", "--project", "forecasts", *here)
    again = command("token", "create", "--name", "ci", *here)
    listed = command("token", "list", "--json", *here)

    assert made.code == 0
    assert made.out.startswith("rst_")
    assert made.out.count("\n") == 1
    assert again.code == 2
    assert "already" in again.err
    mine = next(token for token in json.loads(listed.out)["tokens"] if token["name"] == "ci")
    assert mine["scopes"] == ["runs:read"]
    assert mine["projects"] == ["forecasts"]
    assert made.out.strip() not in listed.out + command("token", "list", *here).out
    assert command("list", "--token", made.out.strip()).code == 0
    assert "did you mean ci?" in command("token", "revoke", "c1", *here).err
    assert command("token", "revoke", "ci", *here).code == 0
    assert command("token", "revoke", "ci", *here).code == 2


def test_a_token_without_scopes_reads_and_ends_when_it_is_told_to(stage: Stage, command: Command) -> None:
    here = ("--redis-url", stage.redis_url)
    command("token", "create", "--name", "brief", "--expires", "30d", *here)

    listed = json.loads(command("token", "list", "--json", *here).out)["tokens"]

    brief = next(token for token in listed if token["name"] == "brief")
    assert brief["scopes"] == ["runs:read"]
    assert brief["projects"] is None
    assert brief["expires_at"] > brief["created_at"]


async def _end(stage: Stage, run_id: str, *statuses: str, after_pending: bool = False, **more: str) -> None:
    """Publish what follows, once the run is there and somebody waits for it."""
    if after_pending:
        await stage.until_known(run_id)
    await stage.until_awaited()
    for status in statuses:
        terminal = status not in {"pending", "running"}
        await stage.append(run_id, status, **(more if terminal else {}))
