"""The hook for RQ, with real workers that fork, that spawn and that do neither."""

import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("rq")

import redis
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.job import Job

from runstore import Publisher
from runstore.core.errors import InvalidRequest
from runstore.hooks.rq import install
from tests.hooks import rq_app
from tests.hooks.example import write_example
from tests.hooks.process import WorkerProcess
from tests.hooks.site import SHORT_LEASE_S, Site
from tests.waiting import happens

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WORKERS = ("ForkingWorker", "InPlaceWorker", *(("SpawningWorker",) if rq_app.SPAWNS else ()))
HORSES = tuple(kind for kind in WORKERS if kind != "InPlaceWorker")


@pytest.fixture
def queue(site: Site) -> Iterator[Queue]:
    """The queue as a client has it."""
    made = Queue(connection=redis.Redis.from_url(site.broker_url))
    reporter = install(made)
    yield made
    reporter.close()
    made.connection.close()


async def worker(site: Site, kind: str = "ForkingWorker", *options: str, **env: str) -> WorkerProcess:
    argv = (str(Path(sys.executable).with_name("rq")), "worker", "--url", site.broker_url)
    return await site.start(
        *argv, "--worker-class", f"tests.hooks.rq_app.{kind}", *options, ready="istening on default", **env
    )


def send(queue: Queue, function: Any, *args: Any, **options: Any) -> Job:
    return queue.enqueue(function, *args, **options)


async def finishes(job: Job) -> Any:
    """Wait for what RQ itself says that a job returned."""
    await happens(lambda: job.get_status() == "finished")
    return job.return_value(refresh=True)


async def fails(job: Job) -> None:
    await happens(lambda: job.get_status() == "failed")


@pytest.mark.parametrize("kind", WORKERS)
async def test_a_job_that_returns_is_a_success_with_what_it_returned(site: Site, queue: Queue, kind: str) -> None:
    await worker(site, kind)

    job = send(queue, rq_app.returns, "a dict")

    run = await site.ends(job.id)
    assert (run.status, run.run_id) == ("success", job.id)
    assert await site.story(job.id) == ["running 1", "success"]
    assert (await site.output(job.id))["outputs"] == {"revenue": [100, 110, 121]}
    assert await site.leases() == 0


async def test_a_job_is_pending_before_a_worker_is_there(site: Site, queue: Queue) -> None:
    job = send(queue, rq_app.adds, 1, 2)

    assert (await site.reaches(job.id, "pending")).status == "pending"
    await worker(site)
    assert (await site.ends(job.id)).status == "success"
    assert [item.status for item in await site.history(job.id)] == ["pending", "running", "success"]


async def test_jobs_are_pending_however_they_are_queued(site: Site, queue: Queue) -> None:
    later = queue.enqueue_at(datetime.now(UTC) + timedelta(hours=1), rq_app.adds, 1, 2)
    first, second = queue.enqueue_many([Queue.prepare_data(rq_app.adds, (n, 1)) for n in range(2)])
    behind = queue.enqueue(rq_app.adds, 1, 2, depends_on=first)
    made = queue.enqueue_job(Job.create(rq_app.adds, (1, 2), connection=queue.connection))

    for job in (later, first, second, behind, made):
        assert (await site.reaches(job.id, "pending")).status == "pending"


@pytest.mark.parametrize(
    ("kind", "outputs", "note"),
    [
        ("nothing", None, ""),
        ("a number", 42, ""),
        ("bytes", "AP8=", ""),
        ("an object", "<object object at", "replaced by their repr"),
        ("a lock", "<unlocked _thread.lock", "replaced by their repr"),
        ("too much", None, "left out"),
    ],
)
async def test_a_job_succeeds_whatever_it_returns(site: Site, queue: Queue, kind: str, outputs: Any, note: str) -> None:
    await worker(site)

    job = send(queue, rq_app.returns, kind, result_ttl=-1)

    assert (await site.ends(job.id)).status == "success"
    output = await site.output(job.id)
    assert str(output["outputs"]).startswith(str(outputs))
    assert note in output["stderr"]
    await finishes(job)


@pytest.mark.parametrize("kind", WORKERS)
async def test_a_job_that_raises_is_failed_with_its_reason(site: Site, queue: Queue, kind: str) -> None:
    await worker(site, kind)

    job = send(queue, rq_app.raises)

    run = await site.ends(job.id)
    assert (run.status, run.error_message) == ("failed", "ValueError: no data")
    stderr = (await site.output(job.id))["stderr"]
    assert "Traceback" in stderr
    assert "in raises" in stderr


@pytest.mark.parametrize("kind", WORKERS)
async def test_a_retry_is_another_attempt_of_the_same_run(site: Site, queue: Queue, kind: str) -> None:
    await worker(site, kind)

    job = send(queue, rq_app.fails_first, 1, retry=Retry(max=2))

    assert (await site.ends(job.id)).status == "success"
    assert await site.story(job.id) == ["running 1", "running 2", "success"]
    assert (await site.output(job.id))["outputs"] == 2


async def test_a_retry_that_is_scheduled_for_later_is_another_attempt_too(site: Site, queue: Queue) -> None:
    await worker(site, "ForkingWorker", "--with-scheduler")

    job = send(queue, rq_app.fails_first, 1, retry=Retry(max=2, interval=1))

    assert (await site.ends(job.id)).status == "success"
    assert await site.story(job.id) == ["running 1", "running 2", "success"]


async def test_a_job_whose_retries_are_used_up_is_failed_once(site: Site, queue: Queue) -> None:
    await worker(site)

    job = send(queue, rq_app.fails_first, 9, retry=Retry(max=2))

    run = await site.ends(job.id)
    assert (run.status, run.error_message) == ("failed", "ValueError: no data")
    assert await site.story(job.id) == ["running 1", "running 2", "running 3", "failed"]


@pytest.mark.skipif(not hasattr(rq_app.rq.Worker, "handle_job_retry"), reason="this RQ knows no returned Retry")
@pytest.mark.parametrize(
    ("times", "story"),
    [(1, ["running 1", "running 2", "success"]), (9, ["running 1", "running 2", "running 3", "failed"])],
)
async def test_a_job_that_returns_a_retry_is_tried_again(
    site: Site, queue: Queue, times: int, story: list[str]
) -> None:
    await worker(site)

    job = send(queue, rq_app.asks_again, times)

    run = await site.ends(job.id)
    assert await site.story(job.id) == story
    assert run.error_message == ("it asked for more than 2 retries" if times == 9 else None)


@pytest.mark.parametrize("kind", WORKERS)
async def test_a_timeout_times_a_run_out(site: Site, queue: Queue, kind: str) -> None:
    await worker(site, kind)

    job = send(queue, rq_app.sleeps, job_timeout=1)

    run = await site.ends(job.id)
    assert run.status == "timed_out"
    assert run.error_message == "JobTimeoutException: Task exceeded maximum timeout value (1 seconds)"
    assert "in sleeps" in (await site.output(job.id))["stderr"]


async def test_a_timeout_with_a_retry_left_is_an_attempt(site: Site, queue: Queue) -> None:
    await worker(site)

    job = send(queue, rq_app.sleeps, job_timeout=1, retry=Retry(max=1))

    assert (await site.ends(job.id)).status == "timed_out"
    assert await site.story(job.id) == ["running 1", "running 2", "timed_out"]


async def test_a_job_that_is_cancelled_in_the_queue_is_cancelled(site: Site, queue: Queue) -> None:
    job = send(queue, rq_app.adds, 1, 2)

    Job.fetch(job.id, connection=queue.connection).cancel()

    run = await site.ends(job.id)
    assert (run.status, run.error_message) == ("cancelled", "cancelled")


async def test_a_job_that_is_cancelled_while_it_runs_goes_on_as_it_does_in_rq(site: Site, queue: Queue) -> None:
    await worker(site)
    job = send(queue, rq_app.waits, "go")
    await site.hears("go begun")

    job.cancel()
    await site.say("go")

    assert (await site.ends(job.id)).status == "success"


@pytest.mark.parametrize("kind", HORSES)
async def test_a_job_that_is_stopped_is_cancelled(site: Site, queue: Queue, kind: str) -> None:
    await worker(site, kind)
    job = send(queue, rq_app.sleeps, retry=Retry(max=1))
    await site.reaches(job.id, "running")

    send_stop_job_command(queue.connection, job.id)

    run = await site.ends(job.id)
    assert (run.status, run.error_message) == ("cancelled", "stopped")


@pytest.mark.parametrize("task_id", ["nightly_2026-04-28", "upper", "hex"])
async def test_any_job_id_names_a_run(site: Site, queue: Queue, task_id: str) -> None:
    await worker(site)
    task_id = {"upper": str(uuid4()).upper(), "hex": uuid4().hex}.get(task_id, task_id)

    send(queue, rq_app.adds, 1, 2, job_id=task_id)

    assert (await site.ends(task_id)).status == "success"


@pytest.mark.parametrize("kind", HORSES)
async def test_a_horse_that_is_killed_is_told_by_its_worker(site: Site, queue: Queue, kind: str) -> None:
    await worker(site, kind)

    job = send(queue, rq_app.dies, 9)

    run = await site.ends(job.id)
    assert run.status == "failed"
    assert run.error_message == "Work-horse terminated unexpectedly; waitpid returned 9 (signal 9)"


async def test_a_horse_that_is_killed_with_a_retry_left_is_an_attempt(site: Site, queue: Queue) -> None:
    await worker(site)

    job = send(queue, rq_app.dies, 1, retry=Retry(max=1))

    assert (await site.ends(job.id)).status == "success"
    assert await site.story(job.id) == ["running 1", "running 2", "success"]


@pytest.mark.parametrize("kind", WORKERS)
async def test_a_worker_that_is_killed_leaves_a_failed_run(site: Site, queue: Queue, kind: str) -> None:
    process = await worker(site, kind, SITE_LEASE_S=SHORT_LEASE_S)
    job = send(queue, rq_app.sleeps)
    await site.reaches(job.id, "running")
    await site.holds(1)

    await process.kill()

    run = await site.ends(job.id)
    assert (run.status, run.error_message) == ("failed", "worker lost")


@pytest.mark.parametrize("kind", WORKERS)
async def test_what_happened_while_the_store_was_away_is_told_when_it_is_back(
    site: Site, queue: Queue, kind: str
) -> None:
    await worker(site, kind)
    before = send(queue, rq_app.waits, "go")
    await site.hears("go begun")

    await site.stop_store()
    await site.say("go")
    assert await finishes(before) == "go"
    meanwhile = send(queue, rq_app.adds, 1, 2)
    assert await finishes(meanwhile) == 3
    await site.start_store()

    # the horses are gone, and no job comes that would bring another
    assert (await site.ends(before.id)).status == "success"
    assert (await site.ends(meanwhile.id)).status == "success"


async def test_a_store_that_never_answers_stops_no_job(site: Site, queue: Queue) -> None:
    site.freeze_store()
    await worker(site)

    jobs = [send(queue, rq_app.adds, n, 1) for n in range(3)]

    assert [await finishes(job) for job in jobs] == [1, 2, 3]


@pytest.mark.parametrize("kind", WORKERS)
async def test_a_store_that_is_away_for_good_stops_no_job(site: Site, queue: Queue, kind: str) -> None:
    await site.stop_store()
    await worker(site, kind)

    assert await finishes(send(queue, rq_app.adds, 1, 2)) == 3
    await fails(send(queue, rq_app.raises))
    assert await finishes(send(queue, rq_app.fails_first, 1, retry=Retry(max=1))) == 2


@pytest.mark.parametrize("kind", WORKERS)
async def test_a_trace_that_is_given_with_a_job_comes_out_in_it(site: Site, queue: Queue, kind: str) -> None:
    await worker(site, kind)

    job = send(queue, rq_app.traced, meta={"traceparent": TRACE})

    assert await finishes(job) == TRACE
    assert (await site.ends(job.id)).traceparent == TRACE


async def test_a_trace_goes_along_where_a_job_queues_another(site: Site, queue: Queue) -> None:
    await worker(site)

    job = send(queue, rq_app.queues, meta={"traceparent": TRACE})

    another = Job.fetch(await finishes(job), connection=queue.connection)
    assert await finishes(another) == TRACE
    assert (await site.ends(another.id)).traceparent == TRACE


async def test_the_current_span_goes_along_where_no_trace_is_given(site: Site, queue: Queue) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    await worker(site)
    context = trace.SpanContext(trace_id=7, span_id=9, is_remote=False, trace_flags=trace.TraceFlags(1))

    with trace.use_span(trace.NonRecordingSpan(context)):
        job = send(queue, rq_app.traced)

    assert await finishes(job) == f"00-{7:032x}-{9:016x}-01"


async def test_a_job_tells_how_far_it_is(site: Site, queue: Queue) -> None:
    await worker(site)

    job = send(queue, rq_app.progresses)

    run = await site.until(job.id, lambda run, _: run.progress is not None)
    assert run.progress is not None
    assert (run.progress.fraction, run.progress.message) == (0.4, "fitting")
    await site.say("progress seen")
    assert await finishes(job) == run.run_id
    assert (await site.ends(job.id)).status == "success"
    assert (await site.output(job.id))["stdout"] == "fitted\n"


@pytest.mark.parametrize(("function", "status"), [(rq_app.returns, "success"), (rq_app.raises, "failed")])
async def test_a_job_that_runs_in_place_is_a_run_too(site: Site, function: Any, status: str) -> None:
    queue = Queue(connection=redis.Redis.from_url(site.broker_url), is_async=False)
    reporter = install(queue)

    job = await asyncio.to_thread(send, queue, function, "a number")

    assert (await site.ends(job.id)).status == status
    assert await site.story(job.id) == ["running 1", status]
    await asyncio.to_thread(reporter.close)


async def test_a_whole_class_of_queues_can_have_the_hook(site: Site) -> None:
    class OurJob(Job): ...

    class OurQueue(Queue):
        job_class = OurJob

    reporter = install(OurQueue)
    queue = OurQueue("other", connection=redis.Redis.from_url(site.broker_url))

    job, another = send(queue, rq_app.adds, 1, 2), send(queue, rq_app.adds, 1, 2)
    another.cancel()

    assert (await site.reaches(job.id, "pending")).status == "pending"
    assert (await site.ends(another.id)).status == "cancelled"
    await asyncio.to_thread(reporter.close)


async def test_the_example_of_the_page_runs(site: Site) -> None:
    folder = site.folder / "example"
    work, look = write_example("rq", folder, site.broker_url)
    client = await site.start_gateway()

    await site.start(*work, cwd=folder, ready="istening on default")
    sender = await site.start(*look, cwd=folder, **client)

    await sender.says("success {'revenue': [100, 110, 120]}")


def test_installing_twice_gives_the_same_reporter(site: Site, queue: Queue) -> None:
    assert install(queue) is install(queue)


def test_an_install_without_a_project_says_what_to_give(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNSTORE_PROJECT", raising=False)
    queue = Queue(connection=redis.Redis.from_url(site.broker_url))

    with pytest.raises(InvalidRequest, match="RUNSTORE_PROJECT"):
        install(queue)
    with pytest.raises(InvalidRequest, match="a queue, a worker"):
        install(Publisher)  # type: ignore[arg-type]
