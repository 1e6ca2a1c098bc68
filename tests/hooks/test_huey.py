"""The hook for Huey, with a real broker and real consumers."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huey")

from huey import MemoryHuey, RedisHuey, exceptions

from runstore.core.errors import InvalidRequest
from runstore.core.status import Status
from runstore.hooks.huey import install
from tests.hooks import huey_app
from tests.hooks.example import write_example
from tests.hooks.process import WorkerProcess
from tests.hooks.site import SHORT_LEASE_S, Site
from tests.hooks.tasks import RETURNS
from tests.waiting import happens

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WORKERS = ("thread", "process")
needs_a_time_limit = pytest.mark.skipif(not hasattr(exceptions, "TaskTimeout"), reason="Huey 2 has no time limit")


class Queue:
    """Queues tasks from the test's own process."""

    def __init__(self, site: Site) -> None:
        self.huey = huey_app.build(site.broker_url)
        self.tasks = huey_app.Tasks(self.huey)

    def add(self, name: str, *args: Any, traceparent: str | None = None, task_id: str | None = None, **settings) -> str:
        task = getattr(self.tasks, name).s(*args, **settings)
        if task_id is not None:
            task.id, task.revoke_id = task_id, f"r:{task_id}"
        if traceparent is not None:
            task.traceparent = traceparent
        self.huey.enqueue(task)
        return task.id

    async def result(self, task_id: str) -> Any:
        """Wait for what Huey itself says that a task returned."""
        return await asyncio.to_thread(self.huey.result, task_id, blocking=True, timeout=30, preserve=True)

    def notes(self) -> list[str]:
        return [str(key) for key in self.huey.all_results() if "runstore:" in str(key)]


@pytest.fixture
async def queue(site: Site) -> AsyncIterator[Queue]:
    made = Queue(site)
    yield made
    made.huey.storage.close()


async def work(site: Site, *options: str, worker_type: str = "thread", **env: str) -> WorkerProcess:
    command = ("-m", "huey.bin.huey_consumer", "tests.hooks.huey_app.huey", "-w", "2", "-k", worker_type, *options)
    return await site.start(*command, ready="+ tests.hooks.huey_app.tell", **env)


def hears_signals(worker: WorkerProcess) -> bool:
    """Whether a consumer has set its handlers, which it does when its workers are at work already."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s+(\w+)", status)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


async def test_a_task_is_pending_when_it_is_queued_and_running_when_a_worker_has_it(site: Site, queue: Queue):
    task_id = queue.add("meet", "here")
    assert (await site.reaches(task_id, "pending")).status is Status.PENDING

    await work(site)
    run = await site.reaches(task_id, "running")
    await site.say("here-goes-on")

    assert (run.run_id, run.project_name, run.attempt) == (task_id, "forecasts", 1)
    assert (await site.ends(task_id)).status is Status.SUCCESS


@pytest.mark.parametrize("worker_type", WORKERS)
async def test_a_task_succeeds_with_what_it_returns(site: Site, queue: Queue, worker_type: str):
    await work(site, worker_type=worker_type)

    task_id = queue.add("succeed", "a dict")
    run = await site.ends(task_id)

    assert run.status is Status.SUCCESS
    assert (await site.output(task_id))["outputs"] == {"revenue": [100, 110, 121]}
    assert await queue.result(task_id) == {"revenue": [100, 110, 121]}


@pytest.mark.parametrize("kind", RETURNS)
async def test_a_task_succeeds_whatever_it_returns(site: Site, queue: Queue, kind: str):
    await work(site, SITE_NO_RESULTS="1")

    task_id = queue.add("succeed", kind)
    run = await site.ends(task_id)

    assert run.status is Status.SUCCESS
    assert kind != "too much" or "left out" in (await site.output(task_id))["stderr"]


async def test_a_value_that_huey_takes_is_its_result_whether_the_store_takes_it_or_not(site: Site, queue: Queue):
    await work(site)

    task_ids = [queue.add("succeed", kind) for kind in ("bytes", "too much")]

    assert [len(await queue.result(task_id)) for task_id in task_ids] == [2, 65 * 1024 * 1024]
    assert {(await site.ends(task_id)).status for task_id in task_ids} == {Status.SUCCESS}


async def test_a_result_that_huey_cannot_store_fails(site: Site, queue: Queue):
    await work(site)

    task_id = queue.add("cannot_be_stored")
    run = await site.ends(task_id)

    assert run.status is Status.FAILED
    assert "pickle" in (run.error_message or "")


async def test_a_task_fails_with_the_reason_and_its_traceback(site: Site, queue: Queue):
    await work(site)

    task_id = queue.add("fail")
    run = await site.ends(task_id)

    assert (run.status, run.error_message) == (Status.FAILED, "ValueError: no data")
    assert "in fail\n" in (await site.output(task_id))["stderr"]


@pytest.mark.parametrize("worker_type", WORKERS)
async def test_each_retry_is_another_attempt_of_the_same_run(site: Site, queue: Queue, worker_type: str):
    await work(site, worker_type=worker_type)

    task_id = queue.add("fail_at_first", "here", retries=5)
    run = await site.ends(task_id)

    assert (run.status, run.attempt) == (Status.SUCCESS, 3)
    assert await site.story(task_id) == ["running 1", "running 2", "running 3", "success"]
    assert not any(item.ignored for item in await site.history(task_id) if item.status != "pending")
    assert queue.notes() == []


async def test_a_retry_that_comes_later_is_another_attempt_and_no_second_pending(site: Site, queue: Queue):
    await work(site)

    task_id = queue.add("ask_for_more", "here", retry_delay=1)
    await site.ends(task_id)

    assert await site.story(task_id) == ["running 1", "running 2", "success"]
    assert [item.status for item in await site.history(task_id)].count(Status.PENDING) == 1


async def test_retries_that_are_used_up_end_the_run_once(site: Site, queue: Queue):
    await work(site)

    task_id = queue.add("fail", retries=2)
    run = await site.ends(task_id)

    assert run.error_message == "ValueError: no data"
    assert await site.story(task_id) == ["running 1", "running 2", "running 3", "failed"]


@needs_a_time_limit
async def test_a_task_past_its_time_limit_times_out(site: Site, queue: Queue):
    await work(site, worker_type="process")

    task_id = queue.add("loop", "here", timeout=1)
    run = await site.ends(task_id)

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "TaskTimeout: timeout (1s)")
    assert "in loop\n" in (await site.output(task_id))["stderr"]


@needs_a_time_limit
async def test_a_task_in_a_thread_times_out_when_it_looks_at_its_time_limit(site: Site, queue: Queue):
    await work(site)

    run = await site.ends(queue.add("look_at_the_clock", timeout=0.1))

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "TaskTimeout: timeout 0.1s")


async def test_a_task_that_expires_in_the_queue_times_out_without_having_run(site: Site, queue: Queue):
    task_id = queue.add("succeed", "a dict", expires=0.001)

    await work(site)
    run = await site.ends(task_id)

    assert (run.status, run.started_us) == (Status.TIMED_OUT, None)
    assert run.error_message == "expired before it was executed"


async def test_a_task_that_is_revoked_in_the_queue_is_cancelled_without_having_run(site: Site, queue: Queue):
    task_id = queue.add("succeed", "a dict")
    queue.huey.revoke_by_id(task_id)

    await work(site)
    run = await site.ends(task_id)

    assert (run.status, run.started_us) == (Status.CANCELLED, None)
    assert run.error_message == "revoked before it was executed"


async def test_a_task_that_cancels_itself_is_cancelled(site: Site, queue: Queue):
    await work(site)

    run = await site.ends(queue.add("give_up"))

    assert (run.status, run.error_message) == (Status.CANCELLED, "CancelExecution")


async def test_a_task_that_a_pre_execute_hook_refuses_is_cancelled(site: Site, queue: Queue):
    await work(site)

    run = await site.ends(queue.add("succeed", kind="nobody's"))

    assert (run.status, run.error_message) == (Status.CANCELLED, "cancelled by a pre-execute hook")


async def test_a_task_whose_lock_another_has_fails(site: Site, queue: Queue):
    await work(site)

    with queue.huey.lock_task("one"):
        run = await site.ends(queue.add("alone"))

    assert (run.status, run.error_message) == (
        Status.FAILED,
        "TaskLockedException: unable to acquire lock one",
    )


async def test_a_task_that_a_stopped_consumer_gives_up_is_cancelled(site: Site, queue: Queue):
    worker = await work(site)
    task_id = queue.add("loop", "here")
    await site.hears("here-begun")
    await happens(lambda: hears_signals(worker))

    await worker.stop(signal.SIGTERM)
    run = await site.ends(task_id)

    assert (run.status, run.error_message) == (Status.CANCELLED, "interrupted: the consumer was stopped")


async def test_a_scheduled_task_is_pending_once(site: Site, queue: Queue):
    await work(site)

    task_id = queue.add("succeed", "a dict", delay=1)
    await site.ends(task_id)

    assert [item.status for item in await site.history(task_id)].count(Status.PENDING) == 1


async def test_a_task_that_follows_another_has_a_run_of_its_own(site: Site, queue: Queue):
    await work(site)
    task = queue.tasks.succeed.s("nothing").then(queue.tasks.succeed, "a dict")

    queue.huey.enqueue(task)

    assert (await site.ends(task.on_complete.id)).status is Status.SUCCESS
    assert (await site.ends(task.id)).status is Status.SUCCESS


async def test_a_task_id_that_is_no_uuid_has_a_run_of_its_own(site: Site, queue: Queue):
    await work(site)

    queue.add("succeed", "a dict", task_id="forecast of April")
    run = await site.ends("forecast of April")

    assert (run.status, run.run_id) == (Status.SUCCESS, site.run_id("forecast of April"))


@pytest.mark.parametrize("worker_type", WORKERS)
async def test_a_worker_that_is_killed_loses_its_run(site: Site, queue: Queue, worker_type: str):
    worker = await work(site, worker_type=worker_type, SITE_LEASE_S=SHORT_LEASE_S)
    task_id = queue.add("loop", "here")
    await site.hears("here-begun")
    await happens(site.leases)

    await worker.kill()
    run = await site.ends(task_id)

    assert (run.status, run.error_message) == (Status.FAILED, "worker lost")


async def test_what_happens_while_the_store_is_away_is_told_when_it_is_back(site: Site, queue: Queue):
    await work(site)
    task_id = queue.add("meet", "here")
    await site.hears("here-begun")

    await site.stop_store()
    await site.say("here-goes-on")
    assert await queue.result(task_id) == "here"
    await site.start_store()

    assert (await site.ends(task_id)).status is Status.SUCCESS
    assert await site.story(task_id) == ["running 1", "success"]


async def test_tasks_are_executed_while_the_store_is_away_for_good(site: Site, queue: Queue):
    await work(site)
    await site.stop_store()

    task_ids = [queue.add("succeed", "a number") for _ in range(3)]

    assert [await queue.result(task_id) for task_id in task_ids] == [42, 42, 42]


async def test_a_trace_goes_from_the_queue_to_the_task(site: Site, queue: Queue):
    await work(site)

    task_id = queue.add("tell", traceparent=TRACEPARENT)
    run = await site.ends(task_id)

    assert run.traceparent == TRACEPARENT
    assert (await site.output(task_id))["outputs"] == {"run_id": run.run_id, "traceparent": TRACEPARENT}
    assert queue.notes() == []


async def test_a_trace_goes_from_a_task_to_those_that_it_queues(site: Site, queue: Queue):
    await work(site)

    first = queue.add("pass_on", traceparent=TRACEPARENT)
    await site.ends(first)
    second = (await site.output(first))["outputs"]

    assert (await site.ends(second)).traceparent == TRACEPARENT


async def test_the_trace_of_the_current_span_is_taken_where_none_is_given(site: Site, queue: Queue):
    trace = pytest.importorskip("opentelemetry.trace")
    span = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(1))
    await work(site)

    with trace.use_span(trace.NonRecordingSpan(span)):
        task_id = queue.add("tell")
    await site.ends(task_id)

    assert (await site.output(task_id))["outputs"]["traceparent"] == TRACEPARENT


async def test_a_task_tells_of_its_progress(site: Site, queue: Queue):
    await work(site)

    task_id = queue.add("halfway", "here")
    run = await site.until(task_id, lambda run, _: run.progress is not None)
    await site.say("here-goes-on")

    assert run.progress is not None
    assert (run.progress.fraction, run.progress.message) == (0.5, "half")
    assert (await site.ends(task_id)).status is Status.SUCCESS


async def test_in_immediate_mode_a_task_and_its_retries_are_one_run(site: Site):
    app = MemoryHuey("here", immediate=True)
    install(app)
    calls: list[int] = []

    @app.task(retries=1)
    def work_at_once() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("no data")
        return len(calls)

    task = work_at_once.s()
    await asyncio.to_thread(app.enqueue, task)
    await site.ends(task.id)

    assert await site.story(task.id) == ["running 1", "running 2", "success"]


async def test_a_task_that_cannot_be_queued_is_no_run(site: Site):
    app = RedisHuey("nowhere", url="redis://127.0.0.1:1")
    install(app)
    task = huey_app.Tasks(app).succeed.s("a dict")

    with pytest.raises(Exception, match=r"127\.0\.0\.1:1"):
        await asyncio.to_thread(app.enqueue, task)

    assert await site.run(task.id) is None


async def test_the_example_of_the_page_runs(site: Site):
    folder = site.folder / "example"
    work, look = write_example("huey", folder, site.broker_url)
    client = await site.start_gateway()

    await site.start(*work, cwd=folder, ready="+ tasks.forecast")
    sender = await site.start(*look, cwd=folder, **client)

    await sender.says("success {'revenue': [100, 110, 120]}")


def test_installing_twice_changes_nothing(site: Site):
    app = RedisHuey("tests", url=site.broker_url)

    first = install(app)

    execute = app.execute
    assert install(app) is first
    assert app.execute is execute


def test_installing_without_an_address_says_what_to_give(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RUNSTORE_REDIS_URL", raising=False)

    with pytest.raises(InvalidRequest, match="RUNSTORE_REDIS_URL"):
        install(MemoryHuey("tests"))
