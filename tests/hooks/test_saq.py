"""The hook for SAQ, with a real broker and real workers."""

import asyncio
import signal
from collections.abc import AsyncIterator
from importlib import metadata
from typing import Any

import pytest

pytest.importorskip("saq")

from saq import Job, Queue, Worker
from saq.job import Status as JobStatus

from runstore.core.errors import InvalidRequest
from runstore.core.status import Status
from runstore.hooks.saq import install
from tests.hooks import saq_app
from tests.hooks.example import write_example
from tests.hooks.process import WorkerProcess
from tests.hooks.site import SHORT_LEASE_S, Site
from tests.hooks.tasks import RETURNS, config
from tests.waiting import happens

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SWEEP_LOCK = "saq:default:sweep"


async def opened(site: Site) -> AsyncIterator[Queue]:
    queue = saq_app.build(site.broker_url)
    reporter = install(queue, config=config())
    yield queue
    await queue.disconnect()
    await asyncio.to_thread(reporter.close)


queue = pytest.fixture(opened)


@pytest.fixture
async def pickling(site: Site, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Queue]:
    """A queue that takes any value, unlike SAQ's own JSON."""
    monkeypatch.setenv("SITE_PICKLE", "1")
    async for queue in opened(site):
        yield queue


async def work(site: Site, **env: str) -> WorkerProcess:
    """Start a worker that does not sweep yet: SAQ may sweep a job that it is about to begin."""
    await site.words.set(SWEEP_LOCK, "held")
    return await site.start("-m", "saq", "-v", "tests.hooks.saq_app.settings", ready="Worker starting", **env)


async def status_of(queue: Queue, job: Job) -> JobStatus | None:
    stored = await queue.job(job.key)
    return stored.status if stored else None


async def gets(queue: Queue, job: Job, status: JobStatus) -> None:
    async def has_it() -> bool:
        return await status_of(queue, job) == status

    await happens(has_it)


async def test_a_job_is_pending_when_it_is_queued_and_running_when_a_worker_has_it(site: Site, queue: Queue):
    job = await queue.enqueue("meet", word="here")
    assert (await site.reaches(job.key, "pending")).status is Status.PENDING

    await work(site)
    run = await site.reaches(job.key, "running")
    await site.say("here-goes-on")

    assert (run.run_id, run.project_name, run.attempt) == (job.key, "forecasts", 1)
    assert (await site.ends(job.key)).status is Status.SUCCESS


@pytest.mark.parametrize("kind", RETURNS)
async def test_a_job_succeeds_with_what_its_function_returns(site: Site, pickling: Queue, kind: str):
    await work(site)

    job = await pickling.enqueue("succeed", kind=kind)
    run = await site.ends(job.key)

    assert run.status is Status.SUCCESS
    assert await status_of(pickling, job) == JobStatus.COMPLETE
    output = await site.output(job.key)
    if kind == "a dict":
        assert output["outputs"] == {"revenue": [100, 110, 121]}
    elif kind == "too much":
        assert "left out" in output["stderr"]


@pytest.mark.parametrize("kind", ["bytes", "an object"])
async def test_a_job_fails_whose_value_saq_itself_cannot_keep(site: Site, queue: Queue, kind: str):
    await work(site)

    job = await queue.enqueue("succeed", kind=kind)
    run = await site.ends(job.key)

    assert run.status is Status.FAILED
    assert run.error_message.startswith("TypeError: Object of type")
    assert await status_of(queue, job) == JobStatus.FAILED
    assert await site.story(job.key) == ["running 1", "failed"]


async def test_a_job_fails_with_the_reason_and_its_traceback(site: Site, queue: Queue):
    await work(site)

    job = await queue.enqueue("fail")
    run = await site.ends(job.key)

    assert (run.status, run.error_message) == (Status.FAILED, "ValueError: no data")
    assert "in fail\n" in (await site.output(job.key))["stderr"]


@pytest.mark.parametrize("delay_s", [0, 0.01])
async def test_a_retry_is_another_attempt_of_the_same_run(site: Site, queue: Queue, delay_s: float):
    await work(site)

    job = await queue.enqueue("fail_once", retries=2, retry_delay=delay_s)
    run = await site.ends(job.key)

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)
    assert await site.story(job.key) == ["running 1", "running 2", "success"]
    assert not any(item.ignored for item in await site.history(job.key) if item.status != "pending")


async def test_retries_that_are_used_up_end_the_run_once(site: Site, queue: Queue):
    await work(site)

    job = await queue.enqueue("fail", retries=2)
    run = await site.ends(job.key)

    assert (run.status, run.attempt, run.error_message) == (Status.FAILED, 2, "ValueError: no data")
    assert await site.story(job.key) == ["running 1", "running 2", "failed"]


async def test_a_job_past_its_time_limit_times_out(site: Site, queue: Queue):
    await work(site)

    job = await queue.enqueue("wait", word="here", timeout=1)
    run = await site.ends(job.key)

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "TimeoutError: no end within 1 s")
    assert "TimeoutError" in (await site.output(job.key))["stderr"]


async def test_a_job_past_its_time_limit_that_may_be_tried_again_goes_on(site: Site, queue: Queue):
    await work(site)

    job = await queue.enqueue("wait_once", word="here", timeout=1, retries=2)
    run = await site.ends(job.key)

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)


async def test_a_function_that_gives_up_waiting_by_itself_times_out(site: Site, queue: Queue):
    await work(site)

    job = await queue.enqueue("time_out_by_itself")
    run = await site.ends(job.key)

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "TimeoutError: the bank did not answer")


async def test_a_job_that_is_aborted_while_it_waits_or_runs_is_cancelled(site: Site, queue: Queue):
    waiting = await queue.enqueue("meet", word="never", scheduled=4_000_000_000)
    queued = await queue.enqueue("meet", word="never")
    await queued.abort("not needed")
    await waiting.abort("not needed")
    await work(site)
    running = await queue.enqueue("wait", word="here")
    await site.hears("here-begun")
    await running.abort("not\nneeded", ttl=60)

    run = await site.ends(queued.key)
    assert (run.status, run.error_message, run.started_us) == (Status.CANCELLED, "aborted: not needed", None)
    run = await site.ends(running.key)
    assert (run.status, run.error_message) == (Status.CANCELLED, "aborted: not needed")


@pytest.mark.skipif(metadata.version("saq") < "0.26", reason="it was complete then, by SAQ's own account")
async def test_a_job_that_returns_although_it_was_aborted_is_cancelled(site: Site, queue: Queue):
    await work(site)
    job = await queue.enqueue("wait_stubbornly", word="here")
    await site.hears("here-begun")

    await job.abort("not needed", ttl=60)

    assert (await site.ends(job.key)).status is Status.CANCELLED


async def test_a_job_that_a_stopped_worker_gives_back_goes_on_in_another(site: Site, queue: Queue):
    worker = await work(site)
    job = await queue.enqueue("wait_once", word="here")
    await site.hears("here-begun")

    await worker.stop(signal.SIGTERM)
    assert not (await site.run(job.key)).is_terminal
    await work(site)
    run = await site.ends(job.key)

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)
    assert await site.story(job.key) == ["running 1", "running 2", "success"]


@pytest.mark.parametrize(("retries", "end"), [(1, "timed_out"), (2, "success")])
async def test_a_job_that_is_swept_as_stuck_times_out_or_goes_on(site: Site, queue: Queue, retries: int, end: str):
    await work(site)

    job = await queue.enqueue("wait_once", word="here", timeout=0, heartbeat=1, retries=retries)
    await site.hears("here-begun")
    await site.words.delete(SWEEP_LOCK)
    run = await site.ends(job.key)

    assert (run.status, run.attempt) == (end, retries)
    assert run.error_message == ("swept as stuck" if end == "timed_out" else None)


async def test_a_key_that_is_no_uuid_has_a_run_of_its_own(site: Site, queue: Queue):
    await work(site)

    await queue.enqueue("succeed", kind="a dict", key="forecast of April")
    run = await site.ends("forecast of April")

    assert (run.status, run.run_id) == (Status.SUCCESS, site.run_id("forecast of April"))


async def test_each_time_of_a_cron_job_has_a_run_of_its_own(site: Site, queue: Queue):
    await work(site, SITE_CRON="1")
    found: dict[int, Any] = {}

    async def ticked_twice() -> bool:
        for word in await site.words.keys("site:ticked-*"):
            scheduled = int(word.decode().rpartition("-")[2])
            found[scheduled] = f"cron:tick:{scheduled}"
        return len(found) > 1

    await happens(ticked_twice)

    for task_id in list(found.values())[:2]:
        assert (await site.ends(task_id)).status is Status.SUCCESS
        assert "pending" in [item.status for item in await site.history(task_id)]


async def test_the_users_own_hooks_are_called_as_ever(site: Site, queue: Queue):
    worker = await work(site)

    job = await queue.enqueue("succeed", kind="nothing")
    await site.ends(job.key)

    await worker.says(f"the user's own before_process was called for {job.key}")
    await worker.says(f"the user's own after_process was called for {job.key}")


async def test_a_worker_that_is_killed_loses_its_run(site: Site, queue: Queue):
    worker = await work(site, SITE_LEASE_S=SHORT_LEASE_S)
    job = await queue.enqueue("wait", word="here", timeout=300)
    await site.hears("here-begun")
    await site.holds(1)

    await worker.kill()
    run = await site.ends(job.key)

    assert (run.status, run.error_message) == (Status.FAILED, "worker lost")


async def test_what_happens_while_the_store_is_away_is_told_when_it_is_back(site: Site, queue: Queue):
    await work(site)
    job = await queue.enqueue("meet", word="here", timeout=60)
    await site.hears("here-begun")

    await site.stop_store()
    await site.say("here-goes-on")
    await gets(queue, job, JobStatus.COMPLETE)
    await site.start_store()

    assert (await site.ends(job.key)).status is Status.SUCCESS
    assert await site.story(job.key) == ["running 1", "success"]


async def test_a_job_that_has_ended_stays_so_when_its_worker_is_stopped_while_it_tells(site: Site, queue: Queue):
    worker = await work(site)
    job = await queue.enqueue("meet", word="here", timeout=60)
    await site.hears("here-begun")
    await site.reaches(job.key, "running")

    site.freeze_store()
    await site.say("here-goes-on")
    await worker.says("Finished Job")
    await worker.stop(signal.SIGTERM)
    site.thaw_store()

    assert await status_of(queue, job) == JobStatus.COMPLETE
    assert await queue.count("incomplete") == 0
    await work(site)  # which sends what the first one left in its spool
    await queue.enqueue("succeed", kind="nothing")
    assert (await site.ends(job.key)).status is Status.SUCCESS


async def test_jobs_are_done_while_the_store_is_away_for_good(site: Site, queue: Queue):
    await work(site)
    await site.stop_store()

    jobs = [await queue.enqueue("succeed", kind="a number") for _ in range(3)]

    for job in jobs:
        await gets(queue, job, JobStatus.COMPLETE)


@pytest.mark.parametrize("function", ["tell", "tell_in_a_thread"])
async def test_a_trace_goes_from_who_queues_to_the_function(site: Site, queue: Queue, function: str):
    await work(site)

    job = await queue.enqueue(function, meta={"traceparent": TRACEPARENT})
    run = await site.ends(job.key)

    assert run.traceparent == TRACEPARENT
    assert (await site.output(job.key))["outputs"] == {"run_id": run.run_id, "traceparent": TRACEPARENT}


async def test_a_job_tells_how_far_it_is(site: Site, queue: Queue):
    await work(site)

    job = await queue.enqueue("meet", word="here")
    run = await site.until(job.key, lambda run, _: run.progress is not None)
    await site.say("here-goes-on")

    assert (run.progress.fraction, run.progress.message) == (0.4, "fitting")
    assert (await site.ends(job.key)).status is Status.SUCCESS


async def test_the_trace_of_the_current_span_is_taken_where_none_is_given(site: Site, queue: Queue):
    trace = pytest.importorskip("opentelemetry.trace")
    span = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(span)):
        job = await queue.enqueue("tell")

    assert (await site.reaches(job.key, "pending")).traceparent == TRACEPARENT
    assert (await queue.job(job.key)).meta == {"traceparent": TRACEPARENT}


async def test_a_job_that_somebody_finishes_by_hand_ends_as_they_say(site: Site, queue: Queue):
    job = await queue.enqueue("meet", word="never")

    await job.finish(JobStatus.FAILED, error="Traceback…\nKeyError: 'april'")
    run = await site.ends(job.key)

    assert (run.status, run.error_message) == (Status.FAILED, "KeyError: 'april'")


async def test_the_example_of_the_page_runs(site: Site):
    folder = site.folder / "example"
    work, look = write_example("saq", folder, site.broker_url)
    client = await site.start_gateway()

    await site.start(*work, cwd=folder, ready="Worker starting")
    sender = await site.start(*look, cwd=folder, **client)

    await sender.says("success {'revenue': [100, 110, 120]}")


async def test_installing_twice_changes_nothing(site: Site, queue: Queue):
    before = dict(vars(queue))
    worker = Worker(queue, [saq_app.succeed])

    assert install(queue) is install({"queue": queue}) is install(worker)
    assert dict(vars(queue)) == before


def test_installing_without_an_address_says_what_to_give(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RUNSTORE_REDIS_URL", raising=False)

    with pytest.raises(InvalidRequest, match="RUNSTORE_REDIS_URL"):
        install(saq_app.build("redis://127.0.0.1:1"))


def test_installing_on_what_has_no_queue_says_what_to_give():
    with pytest.raises(InvalidRequest, match="install takes a Queue"):
        install({"functions": []})
