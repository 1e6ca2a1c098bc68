"""Runs from the request to their end, through a real projector, reaper and worker."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.engine import EngineConfig, EngineKind, start
from runstore.engine.errors import NoServer
from runstore_worker import ConfigError, Worker, WorkerConfig
from tests.worker.conftest import Repo
from tests.worker.site import LEASE_MS, Site, happens, processes_with

HORIZON = """
import json, os
with open(os.environ["RUNSTORE_INPUTS"]) as file: horizon = json.load(file)["horizon"]
print("fitting", os.environ["RUNSTORE_RUN_ID"], sorted(os.listdir(".")))
with open(os.environ["RUNSTORE_OUTPUTS"], "w") as file: json.dump({"months": horizon}, file)
"""
WAITS = "import time; print('begun', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('begun', flush=True); time.sleep(60)"
GATE = """
import os, pathlib, time
gate = pathlib.Path({gate!r})
with open(str(gate) + ".begun", "a") as file: file.write("x")
while not gate.exists(): time.sleep(0.02)
"""


@pytest.fixture
async def site(redis_url: str, tmp_path: Path, repo: Repo) -> AsyncIterator[Site]:
    repo.commit(**{"model.py": "print(1)"})
    async with RedisStore.open(redis_url) as store:
        opened = Site(redis_url, store, tmp_path, repo.path)
        async with opened.projector, opened.reaper, opened.stack:
            yield opened


async def test_a_run_that_succeeds_leaves_its_outputs_and_logs(site: Site, repo: Repo) -> None:
    await site.worker(site.project(HORIZON))

    run = await site.end(await site.ask(inputs={"horizon": 3}))

    assert (run.status, run.error_message, run.attempt, run.run_number) == (Status.SUCCESS, None, 1, 1)
    assert run.commit_sha == repo.git("rev-parse", "HEAD")
    assert run.started_us <= run.finished_us
    assert await site.output(run) == {
        "status": "success",
        "exit_code": 0,
        "stdout": f"fitting {run.run_id} ['model.py']\n",
        "stderr": "",
        "outputs": {"months": 3},
    }
    assert [(item.status, item.worker, item.attempt) for item in await site.history(run.run_id)][1:] == [
        (Status.RUNNING, "w", 1),
        (Status.SUCCESS, "w", 1),
    ]
    assert b"fitting" in b"".join(chunk.data for chunk in await site.store.logs.read_logs(run.run_id, "0", 0))


async def test_runs_that_fail_say_why(site: Site, repo: Repo) -> None:
    projects = {
        "exit": ("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)", "exit code 3"),
        "crash": ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        "junk": (
            "import os; open(os.environ['RUNSTORE_OUTPUTS'], 'w').write('{')",
            "RUNSTORE_OUTPUTS is no valid JSON",
        ),
    }
    made = [site.project(code, name=name) for name, (code, _) in projects.items()]
    absent = site.project("", name="absent", command=("/nowhere/python",))
    await site.worker(*made, absent, concurrency=4)

    for name, (_, reason) in projects.items():
        run = await site.end(await site.ask(name))
        assert run.status is Status.FAILED
        assert run.error_message.startswith(reason)
        if name == "exit":
            output = await site.output(run)
            assert (output["status"], output["exit_code"], output["stdout"], output["stderr"]) == (
                "failed",
                3,
                "out\n",
                "err\n",
            )
    assert "cannot start '/nowhere/python'" in (await site.end(await site.ask("absent"))).error_message
    lost = await site.end(await site.ask("exit", commit_sha="abc1234"))
    assert lost.error_message == f"no commit abc1234 in {repo.path}"
    assert "no branch nowhere" in (await site.end(await site.ask("exit", branch="nowhere"))).error_message
    assert site.left_behind() == []


async def test_a_run_past_its_time_is_timed_out(site: Site) -> None:
    await site.worker(site.project(WAITS, timeout_s=600))

    run = await site.end(await site.ask(timeout_s=0.5))

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "no end within 0.5 s")
    assert (await site.output(run))["stdout"] == "begun\n"


async def test_a_run_that_is_cancelled_ends_with_its_tree(site: Site) -> None:
    await site.worker(site.project(WAITS + "  # to be cancelled"))
    run_id = await site.ask()
    await site.running(run_id)

    assert await site.cancel(run_id)
    run = await site.end(run_id, within_s=5)

    assert (run.status, run.error_message) == (Status.CANCELLED, "cancelled on request")
    assert processes_with("# to be cancelled") == []
    assert not await site.cancel(run_id)


async def test_a_run_that_is_ended_by_others_is_killed_without_a_word(site: Site) -> None:
    worker = await site.worker(site.project(STUBBORN + "  # ended by others"), lease_ms=60_000)
    run_id = await site.ask()
    await site.running(run_id)

    await site.store.log.append(run_id, b'{"run_id":"%s","status":"cancelled"}' % run_id.encode())
    await site.end(run_id)
    await happens(lambda: not worker.running and not processes_with("# ended by others"))

    assert (await site.get(run_id)).ignored == 0


async def test_a_run_that_no_worker_takes_times_out(site: Site) -> None:
    run = await site.end(await site.ask(queue_timeout_s=0.2))

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "no worker took the run within 0.2 s")


async def test_two_workers_never_run_one_run_at_once_and_never_more_than_they_have_room_for(
    site: Site, tmp_path: Path
) -> None:
    code = "import os; open(os.environ['HERE'] + '/' + os.environ['RUNSTORE_RUN_ID'], 'x')"
    project = site.project(code, env={"HERE": str(tmp_path)})
    workers = [await site.worker(project, name=name, concurrency=2) for name in ("a", "b")]

    runs = [await site.end(run_id) for run_id in [await site.ask() for _ in range(8)]]

    assert [run.status for run in runs] == [Status.SUCCESS] * 8
    assert all(worker.running <= 2 for worker in workers)
    assert {run.ignored for run in runs} == {0}


async def test_a_worker_that_is_killed_leaves_its_run_to_another_attempt(site: Site) -> None:
    project = site.project(WAITS + "  # killed once", attempts=2)
    process = await site.worker_process(project)
    run_id = await site.ask()
    await site.running(run_id)

    process.kill()
    await process.wait()
    again = await site.worker(project, name="second")
    run = await site.running(run_id, attempt=2)

    assert [(item.status, item.attempt) for item in await site.history(run_id)][1:] == [
        (Status.RUNNING, 1),
        (Status.RUNNING, 2),
    ]
    assert len(processes_with("# killed once")) <= 2  # the shim and the model of the second
    assert await site.cancel(run_id)
    assert (await site.end(run_id)).attempt == run.attempt == 2
    await again.stop()
    assert site.left_behind() == []


async def test_a_worker_that_is_killed_on_the_last_attempt_leaves_a_failed_run(site: Site) -> None:
    process = await site.worker_process(site.project(WAITS + "  # killed at last"))
    run_id = await site.ask()
    await site.running(run_id)

    process.kill()
    run = await site.end(run_id)

    assert (run.status, run.error_message, run.attempt) == (Status.FAILED, "worker lost", 1)
    assert processes_with("# killed at last") == []


async def test_a_worker_frozen_past_its_lease_says_nothing_and_kills_its_tree(site: Site) -> None:
    process = await site.worker_process(site.project(WAITS + "  # frozen", attempts=1))
    run_id = await site.ask()
    await site.running(run_id)

    process.send_signal(signal.SIGSTOP)
    run = await site.end(run_id)
    assert processes_with("# frozen")
    process.send_signal(signal.SIGCONT)
    await happens(lambda: processes_with("# frozen") == [process.pid])

    assert run.error_message == "worker lost"
    assert (await site.get(run_id)).ignored == 0


async def test_a_worker_that_drains_lets_runs_end_and_claims_no_more(site: Site, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    worker = await site.worker(site.project(GATE.format(gate=str(gate))), grace_s=10)
    run_id = await site.ask()
    await site.running(run_id)

    stopping = asyncio.create_task(worker.stop())
    later = await site.ask()
    gate.touch()
    await asyncio.wait_for(stopping, 10)
    await worker.stop()
    await worker.wait()

    assert (await site.end(run_id)).status is Status.SUCCESS
    assert (await site.until(later, lambda run: True)).status is Status.PENDING


async def test_what_does_not_end_within_the_grace_goes_to_another_attempt_or_fails(site: Site) -> None:
    again, once = site.project(STUBBORN, name="again", attempts=2), site.project(STUBBORN, name="once")
    worker = await site.worker(again, once, grace_s=0.1, kill_after_s=0.2)
    first, second = await site.ask("again"), await site.ask("once")
    await site.running(first)
    await site.running(second)

    await asyncio.wait_for(worker.stop(), 10)

    run = await site.end(second)
    assert (run.status, run.error_message) == (Status.FAILED, "worker stopped")
    assert (await site.output(run))["status"] == "failed"
    assert (await site.get(first)).status is Status.RUNNING
    await site.worker(again, name="second")
    assert (await site.running(first, attempt=2)).attempt == 2


async def test_a_model_that_prints_100_megabytes_is_bounded(site: Site) -> None:
    code = "import sys\nfor i in range(1600): sys.stdout.write(('%7d ' % i) * 8192)\nprint('the end')"
    await site.worker(site.project(code), keep_bytes=4 * 1024 * 1024)

    run = await site.end(await site.ask())

    assert run.status is Status.SUCCESS
    assert run.output.truncated
    assert 3.9 * 2**20 < run.output.output_bytes < 4.1 * 2**20
    assert (await site.output(run))["stdout"].endswith("   1599 the end\n")
    kept = await site.store.client.memory_usage(
        site.store.meta.keys_of(run.run_id).logs(bytes.fromhex(run.run_id.replace("-", "")))
    )
    assert kept < 8 * 1024 * 1024


async def test_a_trace_goes_on_in_the_model(site: Site) -> None:
    await site.worker(site.project("import os; print(os.environ.get('TRACEPARENT'))"))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    traced = await site.end(await site.ask(traceparent=trace))
    plain = await site.end(await site.ask())

    assert [(await site.output(run))["stdout"] for run in (traced, plain)] == [f"{trace}\n", "None\n"]


async def test_a_log_that_an_output_has_room_for_is_kept_whole(site: Site) -> None:
    await site.worker(site.project("import sys\nfor i in range(5): sys.stdout.write(chr(97 + i) * 2**23)"))

    run = await site.end(await site.ask())

    assert (await site.output(run))["stdout"] == "".join(letter * 2**23 for letter in "abcde")


async def test_the_logs_can_be_followed_while_the_run_goes_on(site: Site) -> None:
    await site.worker(site.project(WAITS))
    run_id = await site.ask()

    async with asyncio.timeout(10):
        # the line may come in two pieces
        while b"".join(chunk.data for chunk in await site.store.logs.read_logs(run_id, "0", 500)) != b"begun\n":
            pass
    run = await site.until(run_id, lambda run: run.status is not Status.PENDING)

    assert run.status is Status.RUNNING


async def test_a_redis_that_is_away_longer_than_a_lease_loses_nobody(tmp_path: Path, repo: Repo) -> None:
    repo.commit(**{"model.py": "print(1)"})
    gate = tmp_path / "gate"
    try:
        engine = start(EngineConfig(data_dir=tmp_path / "redis", kind=EngineKind.WHEEL))
    except NoServer:
        pytest.skip("no such server can be started on this machine")
    with engine:
        async with RedisStore.open(engine.redis_url) as store:
            site = Site(engine.redis_url, store, tmp_path, repo.path)
            async with site.projector, site.reaper, site.stack:
                await site.worker(site.project(GATE.format(gate=str(gate)), attempts=2))
                run_id = await site.ask()
                await site.running(run_id)
                server = int((await store.client.info("server"))["process_id"])

                os.kill(server, signal.SIGSTOP)
                try:
                    await asyncio.sleep(2 * LEASE_MS / 1000)  # the outage itself
                    gate.touch()
                finally:
                    os.kill(server, signal.SIGCONT)
                run: Run = await site.end(run_id)

    assert (run.status, run.attempt, run.ignored) == (Status.SUCCESS, 1, 0)
    assert (tmp_path / "gate.begun").read_text() == "x"


async def test_a_worker_without_a_project_does_not_start() -> None:
    with pytest.raises(ConfigError, match="a worker needs a project"):
        Worker("redis://127.0.0.1:1", WorkerConfig())
