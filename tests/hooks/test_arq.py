"""The hook for arq, with a real broker and real workers."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("arq")

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.constants import in_progress_key_prefix
from arq.jobs import Job, JobStatus
from arq.worker import Worker, create_worker

from runstore.core.errors import InvalidRequest
from runstore.core.status import Status
from runstore.hooks.arq import install
from tests.hooks import arq_app
from tests.hooks.example import write_example
from tests.hooks.process import WorkerProcess
from tests.hooks.site import SHORT_LEASE_S, Site
from tests.hooks.tasks import RETURNS, config
from tests.waiting import happens

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def bare(site: Site) -> AsyncIterator[ArqRedis]:
    """A pool without the hook."""
    pool = await create_pool(RedisSettings.from_dsn(site.broker_url))
    yield pool
    await pool.aclose()


@pytest.fixture
async def pool(bare: ArqRedis) -> AsyncIterator[ArqRedis]:
    reporter = install(bare, config=config())
    yield bare
    await asyncio.to_thread(reporter.close)


async def work(site: Site, settings: str = "WorkerSettings", **env: str) -> WorkerProcess:
    return await site.start("-m", "arq", f"tests.hooks.arq_app.{settings}", ready="Starting worker", **env)


async def is_complete(job: Job) -> bool:
    return await job.status() is JobStatus.complete


async def test_a_job_is_pending_when_it_is_queued_and_running_when_a_worker_has_it(site: Site, pool: ArqRedis):
    job = await pool.enqueue_job("meet", "here")
    assert (await site.reaches(job.job_id, "pending")).status is Status.PENDING

    await work(site)
    run = await site.reaches(job.job_id, "running")
    await site.say("here-goes-on")

    assert (run.run_id.replace("-", ""), run.project_name, run.attempt) == (job.job_id, "forecasts", 1)
    assert (await site.ends(job.job_id)).status is Status.SUCCESS


@pytest.mark.parametrize("kind", RETURNS)
async def test_a_job_succeeds_with_what_its_function_returns(site: Site, pool: ArqRedis, kind: str):
    await work(site)

    job = await pool.enqueue_job("succeed", kind)
    run = await site.ends(job.job_id)

    assert run.status is Status.SUCCESS
    await happens(lambda: is_complete(job))
    assert (await job.result_info()).success
    output = await site.output(job.job_id)
    if kind == "a dict":
        assert output["outputs"] == {"revenue": [100, 110, 121]}
    elif kind == "too much":
        assert "left out" in output["stderr"]


async def test_a_job_fails_with_the_reason_and_its_traceback(site: Site, pool: ArqRedis):
    await work(site)

    job = await pool.enqueue_job("fail")
    run = await site.ends(job.job_id)

    assert (run.status, run.error_message) == (Status.FAILED, "ValueError: no data")
    assert "in fail\n" in (await site.output(job.job_id))["stderr"]


async def test_a_retry_is_another_attempt_of_the_same_run(site: Site, pool: ArqRedis):
    await work(site)

    job = await pool.enqueue_job("fail_once")
    run = await site.ends(job.job_id)

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)
    assert await site.story(job.job_id) == ["running 1", "running 2", "success"]
    assert not any(item.ignored for item in await site.history(job.job_id) if item.status != "pending")


async def test_retries_that_are_used_up_end_the_run_once(site: Site, pool: ArqRedis):
    await work(site)

    job = await pool.enqueue_job("tests.hooks.arq_app.always_retry")
    run = await site.ends(job.job_id)

    assert (run.status, run.attempt) == (Status.FAILED, 2)
    assert run.error_message == "JobExecutionFailed: max 2 retries exceeded"
    assert await site.story(job.job_id) == ["running 1", "running 2", "failed"]


async def test_a_job_past_its_time_limit_times_out(site: Site, pool: ArqRedis):
    await work(site)

    job = await pool.enqueue_job("wait_shortly", "here")
    run = await site.ends(job.job_id)

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "TimeoutError: no end within 0.2 s")
    assert "in wait\n" in (await site.output(job.job_id))["stderr"]


async def test_a_function_that_gives_up_waiting_by_itself_times_out(site: Site, pool: ArqRedis):
    await work(site)

    job = await pool.enqueue_job("time_out_by_itself")
    run = await site.ends(job.job_id)

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "TimeoutError: the bank did not answer")


async def test_a_job_that_is_aborted_while_it_waits_or_runs_is_cancelled(site: Site, pool: ArqRedis):
    waiting = await pool.enqueue_job("meet", "never", _defer_by=3600)
    running = await pool.enqueue_job("wait", "here")
    await work(site)
    await site.hears("here-begun")

    assert await waiting.abort(timeout=20)
    assert await running.abort(timeout=20)

    run = await site.ends(waiting.job_id)
    assert (run.status, run.error_message, run.started_us) == (Status.CANCELLED, "aborted before it began", None)
    run = await site.ends(running.job_id)
    assert (run.status, run.error_message) == (Status.CANCELLED, "aborted")


async def test_a_job_that_a_stopped_worker_gives_back_goes_on_in_another(site: Site, pool: ArqRedis):
    worker = await work(site)
    job = await pool.enqueue_job("wait_once", "here")
    await site.hears("here-begun")

    await worker.stop(signal.SIGTERM)
    assert not (await site.run(job.job_id)).is_terminal
    await work(site)
    run = await site.ends(job.job_id)

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)
    assert await site.story(job.job_id) == ["running 1", "running 2", "success"]


async def test_a_job_that_a_stopped_worker_does_not_give_back_is_cancelled(site: Site, pool: ArqRedis):
    worker = await work(site, "FirmSettings")
    job = await pool.enqueue_job("wait", "here")
    await site.hears("here-begun")

    await worker.stop(signal.SIGTERM)
    run = await site.ends(job.job_id)

    assert (run.status, run.error_message) == (Status.CANCELLED, "the worker was stopped")


async def test_a_trace_goes_on_to_what_a_job_queues(site: Site, pool: ArqRedis):
    await work(site)

    await pool.enqueue_job("queue_another", "the other", _traceparent=TRACEPARENT)

    assert (await site.ends("the other")).traceparent == TRACEPARENT


async def test_a_job_that_no_worker_took_in_time_times_out(site: Site, pool: ArqRedis):
    job = await pool.enqueue_job("succeed", "a dict", _expires=0.001)
    await site.reaches(job.job_id, "pending")

    await work(site)
    run = await site.ends(job.job_id)

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "it expired before a worker took it")


async def test_a_job_whose_function_no_worker_has_fails(site: Site, pool: ArqRedis):
    await work(site)

    job = await pool.enqueue_job("unheard_of")
    run = await site.ends(job.job_id)

    assert (run.status, run.error_message) == (
        Status.FAILED,
        "JobExecutionFailed: function 'unheard_of' not found",
    )


async def test_a_job_id_that_is_no_uuid_has_a_run_of_its_own(site: Site, pool: ArqRedis):
    await work(site)

    await pool.enqueue_job("succeed", "a dict", _job_id="forecast of April")
    assert await pool.enqueue_job("succeed", "a dict", _job_id="forecast of April") is None
    run = await site.ends("forecast of April")

    assert (run.status, run.run_id) == (Status.SUCCESS, site.run_id("forecast of April"))


async def test_jobs_that_cron_or_another_job_queues_are_pending_first(site: Site, pool: ArqRedis):
    ticking = await work(site, "CronSettings")
    await site.ends("the tick")
    await ticking.stop()

    await work(site)
    await pool.enqueue_job("queue_another", "the other")

    for job_id in ("the tick", "the other"):
        run = await site.ends(job_id)
        assert (run.status, run.run_id) == (Status.SUCCESS, site.run_id(job_id))
        assert "pending" in [item.status for item in await site.history(job_id)]


async def test_the_users_own_hooks_are_called_as_ever(site: Site, bare: ArqRedis):
    worker = await work(site)

    job = await bare.enqueue_job("succeed", "nothing")
    await site.ends(job.job_id)

    await worker.says("the user's own on_startup was called")
    await worker.says(f"the user's own on_job_start was called for {job.job_id}")
    await worker.says(f"the user's own on_job_end was called for {job.job_id}")
    await worker.says(f"the user's own after_job_end was called for {job.job_id}")


async def test_a_job_that_arq_comes_to_grief_over_goes_on_when_arq_runs_it_again(site: Site, pool: ArqRedis):
    job = await pool.enqueue_job("succeed", "a number")
    worker = await work(site, SITE_BAD_END="1")
    await worker.says("RuntimeError: on_job_end")
    await worker.kill()
    await pool.delete(in_progress_key_prefix + job.job_id)  # arq waits for it to expire

    await work(site)
    run = await site.ends(job.job_id)

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)


async def test_a_worker_that_is_killed_loses_its_run(site: Site, pool: ArqRedis):
    worker = await work(site, SITE_LEASE_S=SHORT_LEASE_S)
    job = await pool.enqueue_job("wait", "here")
    await site.hears("here-begun")
    await site.holds(1)

    await worker.kill()
    run = await site.ends(job.job_id)

    assert (run.status, run.error_message) == (Status.FAILED, "worker lost")


async def test_what_happens_while_the_store_is_away_is_told_when_it_is_back(site: Site, pool: ArqRedis):
    await work(site)
    job = await pool.enqueue_job("meet", "here")
    await site.hears("here-begun")

    await site.stop_store()
    await site.say("here-goes-on")
    await happens(lambda: is_complete(job))
    await site.start_store()

    assert (await site.ends(job.job_id)).status is Status.SUCCESS
    assert await site.story(job.job_id) == ["running 1", "success"]


async def test_a_job_that_has_ended_stays_so_when_its_worker_is_stopped_while_it_tells(site: Site, pool: ArqRedis):
    worker = await work(site)
    job = await pool.enqueue_job("meet", "here")
    await site.hears("here-begun")
    await site.reaches(job.job_id, "running")

    site.freeze_store()
    await site.say("here-goes-on")
    await worker.says(f"the user's own after_job_end was called for {job.job_id}")
    assert await worker.stop(signal.SIGTERM) == 0
    site.thaw_store()

    assert await pool.zcard("arq:queue") == 0
    await work(site)  # which sends what the first one left in its spool
    await pool.enqueue_job("succeed", "nothing")
    assert (await site.ends(job.job_id)).status is Status.SUCCESS


async def test_a_value_that_cannot_even_be_shown_fails_as_arq_says(site: Site, pool: ArqRedis):
    await work(site)

    job = await pool.enqueue_job("return_what_cannot_be_shown")
    run = await site.ends(job.job_id)

    assert (run.status, run.error_message) == (Status.FAILED, "ValueError: no repr")


async def test_jobs_are_done_while_the_store_is_away_for_good(site: Site, pool: ArqRedis):
    await work(site)
    await site.stop_store()

    jobs = [await pool.enqueue_job("succeed", "a number") for _ in range(3)]

    assert [await job.result(timeout=30, poll_delay=0.05) for job in jobs] == [42, 42, 42]


async def test_a_trace_goes_from_who_queues_to_the_function(site: Site, pool: ArqRedis):
    await work(site)

    job = await pool.enqueue_job("tell", _traceparent=TRACEPARENT)
    run = await site.ends(job.job_id)

    assert run.traceparent == TRACEPARENT
    assert (await site.output(job.job_id))["outputs"] == {"run_id": run.run_id, "traceparent": TRACEPARENT}
    other = await pool.enqueue_job("tell")
    await site.ends(other.job_id)
    assert (await site.output(other.job_id))["outputs"]["traceparent"] is None


async def test_a_job_tells_how_far_it_is(site: Site, pool: ArqRedis):
    await work(site)

    job = await pool.enqueue_job("meet", "here")
    run = await site.until(job.job_id, lambda run, _: run.progress is not None)
    await site.say("here-goes-on")

    assert (run.progress.fraction, run.progress.message) == (0.4, "fitting")
    assert (await site.ends(job.job_id)).status is Status.SUCCESS


async def test_the_trace_of_the_current_span_is_taken_where_none_is_given(site: Site, pool: ArqRedis):
    trace = pytest.importorskip("opentelemetry.trace")
    span = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(span)):
        job = await pool.enqueue_job("tell")

    assert (await site.reaches(job.job_id, "pending")).traceparent == TRACEPARENT


async def test_a_worker_without_the_hook_runs_a_job_that_carries_a_trace(site: Site, pool: ArqRedis):
    async def tell(ctx: dict[str, Any]) -> str:
        return "told nobody"

    job = await pool.enqueue_job("tell", _traceparent=TRACEPARENT)
    plain = Worker([arq_app.func(tell, name="tell")], redis_pool=pool, burst=True, handle_signals=False)
    await plain.async_run()

    assert await job.result(timeout=10) == "told nobody"


async def test_the_example_of_the_page_runs(site: Site):
    folder = site.folder / "example"
    work, look = write_example("arq", folder, site.broker_url)
    client = await site.start_gateway()

    await site.start(*work, cwd=folder, ready="Starting worker")
    sender = await site.start(*look, cwd=folder, **client)

    await sender.says("success {'revenue': [100, 110, 120]}")


def install_again(target: Any) -> None:
    install(target)
    before = dict(target) if isinstance(target, dict) else dict(vars(target))

    assert install(target) is install(target)
    assert (dict(target) if isinstance(target, dict) else dict(vars(target))) == before


async def test_installing_twice_changes_nothing(site: Site, bare: ArqRedis):
    class Settings:
        functions = (arq_app.succeed,)

    for target in (Settings, {"functions": [arq_app.succeed]}, Worker([arq_app.succeed], handle_signals=False), bare):
        install_again(target)


async def test_workers_of_settings_and_workers_themselves_have_the_hook_with_any_serializer(site: Site, bare: ArqRedis):
    settings = {"functions": [arq_app.succeed, arq_app.fail], "burst": True, "handle_signals": False, "max_tries": 1}
    jsons = {"job_serializer": lambda data: json.dumps(data, default=repr).encode(), "job_deserializer": json.loads}
    bare.job_serializer, bare.job_deserializer = jsons["job_serializer"], jsons["job_deserializer"]
    plain = Worker(**settings, **jsons, redis_pool=bare)
    install(plain)
    install(bare)
    await bare.enqueue_job("succeed", "a dict", _job_id="one", _traceparent=TRACEPARENT)
    await bare.enqueue_job("unheard_of", _job_id="two")
    await plain.async_run()

    install(settings)
    await bare.enqueue_job("fail", _job_id="three")
    await create_worker(settings, redis_pool=bare, **jsons).async_run()

    assert (await site.ends("one")).traceparent == TRACEPARENT
    assert (await site.ends("two")).error_message == "JobExecutionFailed: function 'unheard_of' not found"
    assert (await site.ends("three")).error_message == "ValueError: no data"


def test_installing_without_an_address_says_what_to_give(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RUNSTORE_REDIS_URL", raising=False)

    with pytest.raises(InvalidRequest, match="RUNSTORE_REDIS_URL"):
        install({"functions": [arq_app.succeed]})


def test_installing_on_what_has_no_functions_says_what_to_give():
    with pytest.raises(InvalidRequest, match="install takes a Worker, its settings or an ArqRedis"):
        install(object())
