"""Runs in trouble, with real processes: workers that are killed, frozen or stopped, a Redis that is away, deadlines."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runstore.core.event import Event
from runstore.core.status import Status
from runstore.dispatch import Dispatch, DispatchConfig, ServedProject, Standing
from runstore.engine import EngineConfig, EngineKind, start
from runstore.engine.errors import NoServer
from runstore.wire.event import encode_event
from tests.worker.conftest import Witness
from tests.worker.stage import LEASE_MS, Stage, staged

FOREVER = "import time\nprint('up', flush=True)\ntime.sleep(300)"


@pytest.fixture
async def stage(redis_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(redis_url, tmp_path / "stage") as made:
        yield made


def once_forever(place: Path) -> str:
    """Write a model that stays for ever the first time, and ends at once the next."""
    return (
        f"import time\nfirst = not os.path.exists({str(place)!r})\nopen({str(place)!r}, 'w')\n"
        "print('up', flush=True)\nif first: time.sleep(300)\nprint('second')"
    )


async def everybody_goes(witness: Witness) -> None:
    async with asyncio.timeout(10):
        while not witness.everybody_is_gone():  # noqa: ASYNC110 - a pipe's last writer tells nobody
            await asyncio.sleep(0.01)


async def test_a_run_whose_worker_was_killed_is_tried_again(stage: Stage, tmp_path: Path) -> None:
    first = await stage.worker_process(project={"attempts": 2})
    run_id = await stage.ask(once_forever(tmp_path / "tried"))
    await stage.says(run_id, b"up")

    await first.kill()
    await stage.worker(project={"attempts": 2})

    assert await stage.ends(run_id) == ("success", None)
    run = await stage.look(run_id)
    assert run is not None and run.attempt == 2
    assert (await stage.output(run_id))["stdout"] == "up\nsecond\n"
    told = [(item.status.value, item.attempt) for item in await stage.store.runs.history(run_id)]
    assert told == [("pending", 1), ("running", 1), ("running", 2), ("success", 2)]


async def test_a_run_whose_worker_was_killed_on_its_last_attempt_has_lost_its_worker(
    stage: Stage, witness: Witness
) -> None:
    command = list(witness.argv("child(leave)\nsay('up')\nsignal.pause()"))
    worker = await stage.worker_process(project={"command": command})
    run_id = await stage.ask("")
    async with asyncio.timeout(10):
        await witness.hears("up")
    await stage.reaches(run_id, "running")

    await worker.kill()

    await everybody_goes(witness)
    assert await stage.ends(run_id) == ("failed", "worker lost")


async def test_a_cancel_that_a_dead_worker_cannot_hear_is_kept(stage: Stage) -> None:
    worker = await stage.worker_process(project={"attempts": 2})
    run_id = await stage.ask(FOREVER)
    await stage.says(run_id, b"up")
    await worker.kill()

    assert await stage.store.served.ask_cancel(run_id)

    assert await stage.ends(run_id) == ("cancelled", "cancelled on request")


async def test_what_a_killed_worker_left_on_the_disk_is_removed_by_the_next(stage: Stage) -> None:
    worker = await stage.worker_process()
    run_id = await stage.ask(FOREVER)
    await stage.says(run_id, b"up")
    await worker.kill()
    work = stage.folder / "data" / "work"
    assert list(work.rglob("inputs.json"))

    await stage.worker()

    assert not list(work.rglob("inputs.json"))


async def test_a_worker_that_froze_says_nothing_about_a_run_that_another_took(
    stage: Stage, witness: Witness, tmp_path: Path
) -> None:
    first = f"open({str(tmp_path / 'first')!r}, 'x')"
    code = f"try:\n    {first}\nexcept OSError: sys.exit(0)\nsay('up')\nsignal.pause()"
    project = {"command": list(witness.argv(code)), "attempts": 2}
    frozen = await stage.worker_process(project=project)
    run_id = await stage.ask("")
    async with asyncio.timeout(10):
        await witness.hears("up")
    await stage.reaches(run_id, "running")

    frozen.send(signal.SIGSTOP)
    await stage.worker(project=project)
    assert await stage.ends(run_id) == ("success", None)
    assert not witness.everybody_is_gone()
    frozen.send(signal.SIGCONT)

    await everybody_goes(witness)
    frozen.send(signal.SIGTERM)
    assert await asyncio.wait_for(frozen.process.wait(), 10) == 0
    assert [item.ignored for item in await stage.store.runs.history(run_id)] == ["", "", "", ""]


async def test_a_worker_that_is_told_to_stop_lets_its_runs_end_and_takes_no_other(stage: Stage, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    worker = await stage.worker_process(grace_s=20, concurrency=1)
    running = await stage.ask(f"print('up', flush=True)\nopen({str(go)!r}).read()")
    await stage.says(running, b"up")

    worker.send(signal.SIGTERM)
    waiting = await stage.ask("")
    await stage.reaches(waiting, "pending")
    go.write_text("")

    assert await stage.ends(running) == ("success", None)
    assert await asyncio.wait_for(worker.process.wait(), 10) == 0
    run = await stage.look(waiting)
    assert run is not None and run.status == "pending"


async def test_a_run_that_outlives_the_grace_goes_to_another_worker(stage: Stage, tmp_path: Path) -> None:
    first = await stage.worker(project={"attempts": 2}, lease_ms=60_000)
    run_id = await stage.ask(once_forever(tmp_path / "tried"))
    await stage.says(run_id, b"up")

    await asyncio.gather(first.stop(), first.stop())
    await stage.worker(project={"attempts": 2}, lease_ms=60_000)

    assert await stage.ends(run_id, within_s=8) == ("success", None)
    run = await stage.look(run_id)
    assert run is not None and run.attempt == 2


async def test_a_run_that_outlives_the_grace_on_its_last_attempt_has_failed(stage: Stage) -> None:
    worker = await stage.worker(lease_ms=60_000)
    run_id = await stage.ask(FOREVER)
    await stage.says(run_id, b"up")

    await worker.stop()

    assert await stage.ends(run_id, within_s=5) == ("failed", "worker stopped")
    told = await stage.output(run_id)
    assert (told["status"], told["stdout"]) == ("failed", "up\n")


async def test_workers_side_by_side_execute_each_run_once(stage: Stage, tmp_path: Path) -> None:
    place = tmp_path / "began"
    place.mkdir()
    for _ in range(2):
        await stage.worker()

    ids = [await stage.ask(f"open({str(place)!r} + '/' + os.environ['RUNSTORE_RUN_ID'], 'x')") for _ in range(16)]

    for run_id in ids:
        assert await stage.ends(run_id) == ("success", None)
        assert len(await stage.store.runs.history(run_id)) == 3
    assert sorted(os.listdir(place)) == sorted(ids)


async def test_a_run_that_no_worker_takes_in_time_is_timed_out_and_never_begun(stage: Stage, tmp_path: Path) -> None:
    run_id = await stage.ask(f"open({str(tmp_path / 'begun')!r}, 'w')", queue_timeout_s=0.3)

    status, reason = await stage.ends(run_id)
    await stage.worker()
    other = await stage.ask("", queue_timeout_s=60)

    assert (status, reason) == ("timed_out", "no worker took the run within 0.3 s")
    assert await stage.ends(other) == ("success", None)
    assert not (tmp_path / "begun").exists()


async def test_a_stuck_worker_that_still_sends_heartbeats_does_not_hold_a_run_for_ever(stage: Stage) -> None:
    config = DispatchConfig(name="stuck", lease_ms=LEASE_MS, deadline_slack_s=0.1)
    async with Dispatch.open(stage.redis_url, config) as dispatch:
        await dispatch.register([ServedProject(name="forecasts", timeout_s=0.3, grace_s=0)])
        run_id = await stage.ask("")
        claim = await asyncio.wait_for(dispatch.claim(), 5)
        assert await dispatch.begin(claim) is Standing.HELD
        running = Event(run_id=run_id, status=Status.RUNNING, attempt=claim.attempt)
        await stage.store.log.append(run_id, encode_event(running))

        async with asyncio.timeout(10):
            while await dispatch.heartbeat(claim) is not Standing.LOST:
                await dispatch.heard(claim, 0.2)

    assert (await stage.ends(run_id))[0] == "timed_out"


@pytest.mark.parametrize("model", ["ends while Redis is away", "ends afterwards"])
async def test_a_redis_that_is_away_for_longer_than_a_lease_costs_no_run(tmp_path: Path, model: str) -> None:
    try:
        engine = start(EngineConfig(data_dir=tmp_path / "redis", kind=EngineKind.WHEEL))
    except NoServer:
        pytest.skip("no such server can be started on this machine")
    go = tmp_path / "go"
    os.mkfifo(go)
    with engine:
        async with staged(engine.redis_url, tmp_path / "stage") as stage:
            await stage.worker()
            run_id = await stage.ask(f"print('up', flush=True)\nopen({str(go)!r}).read()\nprint('late')")
            await stage.says(run_id, b"up")
            assert engine.pid is not None

            os.kill(engine.pid, signal.SIGSTOP)
            try:
                if model == "ends while Redis is away":
                    go.write_text("")
                await asyncio.sleep(2 * LEASE_MS / 1000)
            finally:
                os.kill(engine.pid, signal.SIGCONT)
            if model == "ends afterwards":
                await asyncio.sleep(LEASE_MS / 1000)
                go.write_text("")

            assert await stage.ends(run_id) == ("success", None)
            assert (await stage.output(run_id))["stdout"] == "up\nlate\n"
            run = await stage.look(run_id)
            assert run is not None and run.attempt == 1
