"""Runs from the moment they are asked for to their end, with a real store, git and processes: one worker and its day."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runstore.core.event import MAX_OUTPUT_BYTES
from runstore.core.ids import to_bytes
from tests.worker.conftest import Witness
from tests.worker.stage import Stage, staged

FOREVER = "import time\nprint('up', flush=True)\ntime.sleep(300)"


@pytest.fixture
async def stage(redis_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(redis_url, tmp_path / "stage") as made:
        yield made


async def test_a_run_that_was_asked_for_is_executed_and_leaves_what_it_made(stage: Stage) -> None:
    await stage.worker()

    run_id = await stage.ask(
        "import sys; print('fitting…'); print('slow', file=sys.stderr)\n"
        "assert os.environ['RUNSTORE_RUN_ID'] and 'RUNSTORE_REDIS_URL' not in os.environ\n"
        "json.dump({'revenue': [100, 110, 121]}, open(os.environ['RUNSTORE_OUTPUTS'], 'w'))"
    )

    assert await stage.ends(run_id) == ("success", None)
    assert await stage.output(run_id) == {
        "status": "success",
        "exit_code": 0,
        "stdout": "fitting…\n",
        "stderr": "slow\n",
        "outputs": {"revenue": [100, 110, 121]},
    }
    run = await stage.look(run_id)
    assert run is not None
    assert (run.commit_sha, run.attempt, run.run_number) == (stage.sha, 1, 1)
    assert run.started_us is not None and run.finished_us is not None and run.started_us <= run.finished_us
    begun, running, ended = await stage.store.runs.history(run_id)
    assert (running.status, running.attempt, bool(running.worker)) == ("running", 1, True)
    assert ended.worker == running.worker


async def test_every_way_to_fail_says_its_reason(stage: Stage) -> None:
    outputs = "open(os.environ['RUNSTORE_OUTPUTS'], 'w').write"
    ways = {
        "exit code 3": await stage.ask("print('bye'); raise SystemExit(3)"),
        "killed by SIGSEGV": await stage.ask("os.kill(os.getpid(), 11)"),
        "RUNSTORE_OUTPUTS is no valid JSON: ": await stage.ask(f"{outputs}('{{')"),
        "must be a JSON object": await stage.ask(f"{outputs}('[1]')"),
        "no commit abc1234 in ": await stage.ask("", commit_sha="abc1234"),
        "no branch nowhere in ": await stage.ask("", branch="nowhere"),
        "exit code 1": await stage.ask("1 / 0"),
    }

    await stage.worker()

    for reason, run_id in ways.items():
        status, said = await stage.ends(run_id)
        assert status == "failed" and said is not None and reason in said, (reason, status, said)
    told = await stage.output(ways["exit code 3"])
    assert (told["status"], told["exit_code"], told["stdout"]) == ("failed", 3, "bye\n")
    assert (await stage.output(ways["killed by SIGSEGV"]))["exit_code"] is None
    assert "ZeroDivisionError" in (await stage.output(ways["exit code 1"]))["stderr"]


async def test_a_command_that_cannot_be_started_is_no_riddle(stage: Stage) -> None:
    await stage.worker(project={"command": ["no-such-program"]})

    status, said = await stage.ends(await stage.ask(""))

    assert status == "failed"
    assert said is not None and "no-such-program" in said


async def test_a_run_past_its_time_is_timed_out_with_all_its_processes(stage: Stage, witness: Witness) -> None:
    await stage.worker(
        project={"command": list(witness.argv("child(leave)\nsay('up')\nprint('so far')\nsignal.pause()"))}
    )

    run_id = await stage.ask("", timeout_s=1.5)

    assert await stage.ends(run_id) == ("timed_out", "no end within 1.5 s")
    assert witness.everybody_is_gone()
    told = await stage.output(run_id)
    assert (told["status"], told["exit_code"]) == ("timed_out", None)


async def test_a_project_has_a_time_of_its_own(stage: Stage) -> None:
    await stage.worker(project={"timeout_s": 0.5})

    assert await stage.ends(await stage.ask(FOREVER)) == ("timed_out", "no end within 0.5 s")


async def test_a_running_run_is_cancelled_within_moments_with_all_its_processes(stage: Stage, witness: Witness) -> None:
    await stage.worker(
        project={"command": list(witness.argv("child(leave)\nsay('up')\nsignal.pause()"))}, lease_ms=60_000
    )
    run_id = await stage.ask("")
    async with asyncio.timeout(10):
        await witness.hears("up")
    await stage.reaches(run_id, "running")

    assert await stage.store.served.ask_cancel(run_id)

    # a heartbeat would come after 20 s only: it was heard
    assert await stage.ends(run_id, within_s=8) == ("cancelled", "cancelled on request")
    assert witness.everybody_is_gone()


async def test_a_run_that_was_cancelled_while_it_waited_is_never_begun(stage: Stage, tmp_path: Path) -> None:
    run_id = await stage.ask(f"open({str(tmp_path / 'begun')!r}, 'w')")
    await stage.reaches(run_id, "pending")
    assert not await stage.store.served.ask_cancel(run_id)
    await stage.tell(run_id, "cancelled", error_message="cancelled on request")
    await stage.reaches(run_id, "cancelled")

    await stage.worker()
    other = await stage.ask("")

    assert await stage.ends(other) == ("success", None)
    assert not (tmp_path / "begun").exists()


async def test_an_end_told_by_another_ends_the_processes_and_stays(stage: Stage, witness: Witness) -> None:
    await stage.worker(project={"command": list(witness.argv("say('up')\nsignal.pause()"))}, lease_ms=60_000)
    run_id = await stage.ask("")
    async with asyncio.timeout(10):
        await witness.hears("up")
    await stage.reaches(run_id, "running")

    await stage.tell(run_id, "failed", error_message="told by another")

    assert await stage.ends(run_id) == ("failed", "told by another")
    async with asyncio.timeout(8):
        while not witness.everybody_is_gone():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [item.ignored for item in await stage.store.runs.history(run_id)] == ["", "", ""]


async def test_logs_are_there_while_the_run_goes_on(stage: Stage) -> None:
    await stage.worker()

    run_id = await stage.ask(FOREVER)

    assert await stage.says(run_id, b"up\n") == b"up\n"
    assert (await stage.reaches(run_id, "running")).finished_us is None


async def test_a_hundred_megabytes_of_print_fill_neither_redis_nor_the_output(stage: Stage) -> None:
    await stage.worker()

    run_id = await stage.ask(
        "import sys\nline = 'x' * 1023 + '\\n'\nfor _ in range(100): sys.stdout.write(line * 1024)\nprint('the end')"
    )

    assert await stage.ends(run_id, within_s=40) == ("success", None)
    run = await stage.look(run_id)
    assert run is not None and run.output is not None
    assert run.output.truncated and run.output.output_bytes <= MAX_OUTPUT_BYTES
    view = await stage.store.outputs.view(run_id, run.output)
    assert view is not None and len(view) <= 1024 * 1024 and b"the end" in view
    logs = stage.store.meta.keys_of(run_id).logs(to_bytes(run_id))
    assert await stage.store.client.memory_usage(logs) < 8 * 1024 * 1024
    assert 0 < await stage.store.client.ttl(logs) <= 24 * 3600


async def test_nothing_is_left_in_the_work_folder_but_the_caches(stage: Stage) -> None:
    await stage.worker()
    ids = [await stage.ask("os.mkdir('a'); open('a/b', 'w'); os.chmod('a', 0)") for _ in range(3)]

    for run_id in ids:
        assert await stage.ends(run_id) == ("success", None)

    left = [path for path in (stage.folder / "data" / "work").rglob("*") if path.name != "lock"]
    assert len(left) == 1, left  # the worker's own folder
    assert len(list((stage.folder / "data" / "mirrors").glob("*.git"))) == 1


async def test_every_attempt_finds_a_fresh_checkout(stage: Stage) -> None:
    await stage.worker(concurrency=1)
    code = "assert sorted(os.listdir()) == ['model.py'], os.listdir()\nopen('left behind', 'w')"

    for run_id in [await stage.ask(code), await stage.ask(code)]:
        assert await stage.ends(run_id) == ("success", None)


async def test_the_commit_or_branch_that_was_asked_for_is_executed(stage: Stage) -> None:
    old = stage.sha
    stage.repo.git("checkout", "-q", "-b", "side")
    side = stage.repo.commit(**{"model.py": "print('side')"})
    stage.repo.git("checkout", "-q", "main")
    new = stage.repo.commit(**{"model.py": "print('new')"})
    await stage.worker()

    asked = [
        (await stage.ask("print('old')", commit_sha=old[:9]), old, "old\n"),
        (await stage.ask("", branch="side"), side, "side\n"),
        (await stage.ask(""), new, "new\n"),
    ]

    for run_id, sha, said in asked:
        assert await stage.ends(run_id) == ("success", None)
        run = await stage.look(run_id)
        assert run is not None and run.commit_sha == sha
        assert (await stage.output(run_id))["stdout"] == said


async def test_no_more_runs_go_on_at_once_than_were_allowed(stage: Stage, tmp_path: Path) -> None:
    place = tmp_path / "now"
    place.mkdir()
    code = (
        f"import time; mine = {str(place)!r} + '/' + str(os.getpid()); open(mine, 'w')\n"
        f"time.sleep(0.1); n = len(os.listdir({str(place)!r})); os.remove(mine); assert n <= 2, n"
    )
    await stage.worker(concurrency=2)

    for run_id in [await stage.ask(code) for _ in range(6)]:
        assert await stage.ends(run_id) == ("success", None)
    assert os.listdir(place) == []
