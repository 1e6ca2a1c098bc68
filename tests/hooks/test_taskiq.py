"""The hook for taskiq, with real brokers and real workers."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("taskiq")

from taskiq import AsyncBroker, AsyncTaskiqTask, InMemoryBroker, SimpleRetryMiddleware

from runstore.core.errors import InvalidRequest
from runstore.core.status import Status
from runstore.hooks.taskiq import install
from tests.hooks import taskiq_app
from tests.hooks.example import write_example
from tests.hooks.process import WorkerProcess
from tests.hooks.site import SHORT_LEASE_S, Site
from tests.hooks.tasks import RETURNS
from tests.waiting import happens

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Sender:
    """Sends tasks from the test's own process."""

    def __init__(self, broker: AsyncBroker) -> None:
        self.broker = broker

    async def send(self, name: str, *args: Any, task_id: str | None = None, **labels: Any) -> "AsyncTaskiqTask[Any]":
        kicker = self.broker.find_task(name).kicker().with_labels(**labels)
        return await (kicker.with_task_id(task_id) if task_id else kicker).kiq(*args)


@pytest.fixture
async def sender(site: Site) -> AsyncIterator[Sender]:
    broker = taskiq_app.build(site.broker_url)
    await broker.startup()
    yield Sender(broker)
    await broker.shutdown()
    await asyncio.to_thread(install(broker).close)


async def work(site: Site, *options: str, **env: str) -> WorkerProcess:
    command = ("-m", "taskiq", "worker", "tests.hooks.taskiq_app:broker", "--workers", "1", *options)
    return await site.start(*command, ready="Listening started", **env)


async def test_a_task_is_pending_when_it_is_sent_and_running_when_a_worker_has_it(site: Site, sender: Sender):
    task = await sender.send("meet", "here")
    assert (await site.reaches(task.task_id, "pending")).status is Status.PENDING

    await work(site)
    run = await site.reaches(task.task_id, "running")
    await site.say("here-goes-on")

    assert (run.run_id.replace("-", ""), run.project_name, run.attempt) == (task.task_id, "forecasts", 1)
    assert (await site.ends(task.task_id)).status is Status.SUCCESS


@pytest.mark.parametrize("kind", RETURNS)
async def test_a_task_succeeds_with_what_its_function_returns(site: Site, sender: Sender, kind: str):
    worker = await work(site)

    task = await sender.send("succeed", kind)
    run = await site.ends(task.task_id)

    assert run.status is Status.SUCCESS
    if kind in {"bytes", "an object"}:  # which the result backend cannot keep
        await worker.says("Can't set result in result backend.")
    else:
        await happens(task.is_ready)
        assert not (await task.get_result()).is_err
    output = await site.output(task.task_id)
    if kind == "a dict":
        assert output["outputs"] == {"revenue": [100, 110, 121]}
    elif kind == "too much":
        assert "left out" in output["stderr"]


async def test_a_task_fails_with_the_reason_and_its_traceback(site: Site, sender: Sender):
    await work(site)

    task = await sender.send("fail")
    run = await site.ends(task.task_id)

    assert (run.status, run.error_message) == (Status.FAILED, "ValueError: no data")
    assert "in fail\n" in (await site.output(task.task_id))["stderr"]


RETRIES = ["", "with a result", "added later", "smart", "scheduled", "scheduled with a result"]


async def retrying(site: Site, retry: str) -> None:
    """Start what a way to retry needs."""
    await work(site, SITE_RETRY=retry)
    if "scheduled" in retry:
        command = ("-m", "taskiq", "scheduler", "tests.hooks.taskiq_app:scheduler", "--update-interval", "1")
        await site.start(*command, ready="Starting scheduler", SITE_RETRY=retry)


@pytest.mark.parametrize("retry", RETRIES)
async def test_a_retry_is_another_attempt_of_the_same_run(site: Site, sender: Sender, retry: str):
    await retrying(site, retry)

    task = await sender.send("fail_once", retry_on_error=True)
    run = await site.ends(task.task_id)

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)
    assert await site.story(task.task_id) == ["running 1", "running 2", "success"]
    assert [item.status for item in await site.history(task.task_id)].count(Status.PENDING) == 1


@pytest.mark.parametrize("retry", RETRIES)
async def test_retries_that_are_used_up_end_the_run_once(site: Site, sender: Sender, retry: str):
    await retrying(site, retry)

    task = await sender.send("fail", retry_on_error=True)
    run = await site.ends(task.task_id)

    assert (run.status, run.attempt, run.error_message) == (Status.FAILED, 2, "ValueError: no data")
    assert await site.story(task.task_id) == ["running 1", "running 2", "failed"]


async def test_a_task_that_is_requeued_goes_on(site: Site, sender: Sender):
    await work(site)

    task = await sender.send("requeue_once")
    run = await site.ends(task.task_id)

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)


async def test_a_task_that_keeps_no_result_succeeds(site: Site, sender: Sender):
    await work(site)

    task = await sender.send("keep_nothing")

    assert (await site.ends(task.task_id)).status is Status.SUCCESS


async def test_a_task_that_is_rejected_fails(site: Site, sender: Sender):
    await work(site)

    task = await sender.send("reject")
    run = await site.ends(task.task_id)

    assert run.status is Status.FAILED
    assert run.error_message.startswith("TaskRejectedError")


async def test_a_task_past_its_time_limit_times_out(site: Site, sender: Sender):
    await work(site)

    task = await sender.send("wait", "here", timeout=0.2)
    run = await site.ends(task.task_id)

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "TimeoutError: no end within 0.2 s")
    assert "in wait\n" in (await site.output(task.task_id))["stderr"]


async def test_a_task_that_gives_up_waiting_by_itself_times_out(site: Site, sender: Sender):
    await work(site)

    task = await sender.send("time_out_by_itself", timeout=60)
    run = await site.ends(task.task_id)

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "TimeoutError: the bank did not answer")


async def test_a_task_that_is_cancelled_is_cancelled(site: Site, sender: Sender):
    await work(site)

    task = await sender.send("cancel_itself")

    assert (await site.ends(task.task_id)).status is Status.CANCELLED


async def test_a_task_whose_dependency_fails_fails(site: Site, sender: Sender):
    await work(site)

    task = await sender.send("depend")
    run = await site.ends(task.task_id)

    assert (run.status, run.error_message) == (Status.FAILED, "LookupError: nobody is there")


async def test_a_task_that_a_middleware_comes_to_grief_over_fails(site: Site, sender: Sender):
    await work(site, SITE_GRUMBLER="1")

    task = await sender.send("fail")
    run = await site.ends(task.task_id)

    assert (run.status, run.error_message) == (Status.FAILED, "RuntimeError: grumble")


async def test_a_task_that_a_stopped_worker_waits_for_ends_as_ever(site: Site, sender: Sender):
    worker = await work(site)
    task = await sender.send("meet", "here")
    await site.hears("here-begun")

    stopping = worker.stop(signal.SIGTERM)
    await site.say("here-goes-on")
    await stopping

    assert (await site.ends(task.task_id)).status is Status.SUCCESS


async def test_a_task_that_a_stopped_worker_does_not_wait_for_is_cancelled(site: Site, sender: Sender):
    worker = await work(site, "--wait-tasks-timeout", "0.1")
    task = await sender.send("wait", "here")
    await site.hears("here-begun")

    await worker.stop(signal.SIGTERM)
    run = await site.ends(task.task_id)

    assert (run.status, run.error_message) == (Status.CANCELLED, "the worker was stopped")


async def test_a_task_id_that_is_no_uuid_has_a_run_of_its_own(site: Site, sender: Sender):
    await work(site)

    await sender.send("succeed", "a dict", task_id="forecast of April")
    run = await site.ends("forecast of April")

    assert (run.status, run.run_id) == (Status.SUCCESS, site.run_id("forecast of April"))


async def test_streams_do_as_lists_do(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SITE_STREAM", "1")
    await work(site)
    broker = taskiq_app.build(site.broker_url)
    await broker.startup()

    task = await Sender(broker).send("fail_once", retry_on_error=True)
    run = await site.ends(task.task_id)
    await broker.shutdown()

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)


async def test_a_task_that_is_executed_in_place_is_a_run_too(site: Site):
    broker = InMemoryBroker(await_inplace=True)
    install(broker)
    broker.task(task_name="tell")(taskiq_app.tell)

    task = await Sender(broker).send("tell", traceparent=TRACEPARENT)
    run = await site.ends(task.task_id)
    await broker.shutdown()

    assert (run.status, run.traceparent) == (Status.SUCCESS, TRACEPARENT)
    assert (await task.get_result()).return_value["run_id"] == run.run_id


async def test_a_task_that_executes_another_in_place_ends_as_well(site: Site):
    broker = InMemoryBroker(await_inplace=True)
    broker.add_middlewares(SimpleRetryMiddleware(default_retry_count=2))
    install(broker)
    for name in ("tell", "queue_another", "fail_once"):
        broker.task(task_name=name)(taskiq_app.TASKS[name])
    sender = Sender(broker)

    for task_id in ("first", "second"):
        await sender.send("queue_another", f"the other of {task_id}", task_id=task_id)
    await sender.send("fail_once", task_id="third", retry_on_error=True)
    await broker.shutdown()

    for task_id in ("first", "the other of first", "second", "the other of second"):
        assert (await site.ends(task_id)).status is Status.SUCCESS
        assert await site.story(task_id) == ["running 1", "success"]
    await site.ends("third")
    assert await site.story("third") == ["running 1", "running 2", "success"]


async def test_a_worker_that_is_killed_loses_its_run(site: Site, sender: Sender):
    worker = await work(site, SITE_LEASE_S=SHORT_LEASE_S)
    task = await sender.send("wait", "here")
    await site.hears("here-begun")
    await site.holds(1)

    await worker.kill()
    run = await site.ends(task.task_id)

    assert (run.status, run.error_message) == (Status.FAILED, "worker lost")


async def test_what_happens_while_the_store_is_away_is_told_when_it_is_back(site: Site, sender: Sender):
    await work(site)
    task = await sender.send("meet", "here")
    await site.hears("here-begun")

    await site.stop_store()
    await site.say("here-goes-on")
    await happens(task.is_ready)
    await site.start_store()

    assert (await site.ends(task.task_id)).status is Status.SUCCESS
    assert await site.story(task.task_id) == ["running 1", "success"]


async def test_tasks_are_done_while_the_store_is_away_for_good(site: Site, sender: Sender):
    await work(site)
    await site.stop_store()

    tasks = [await sender.send("succeed", "a number") for _ in range(3)]

    assert [(await task.wait_result(check_interval=0.02, timeout=30)).return_value for task in tasks] == [42, 42, 42]


@pytest.mark.parametrize("name", ["tell", "tell_in_a_thread"])
async def test_a_trace_goes_from_the_sender_to_the_function(site: Site, sender: Sender, name: str):
    await work(site)

    task = await sender.send(name, traceparent=TRACEPARENT)
    run = await site.ends(task.task_id)

    assert run.traceparent == TRACEPARENT
    assert (await site.output(task.task_id))["outputs"] == {"run_id": run.run_id, "traceparent": TRACEPARENT}


async def test_a_trace_goes_on_to_what_a_task_sends(site: Site, sender: Sender):
    await work(site)

    await sender.send("queue_another", "the other", traceparent=TRACEPARENT)

    assert (await site.ends("the other")).traceparent == TRACEPARENT


async def test_a_task_tells_how_far_it_is(site: Site, sender: Sender):
    await work(site)

    task = await sender.send("meet", "here")
    run = await site.until(task.task_id, lambda run, _: run.progress is not None)
    await site.say("here-goes-on")

    assert (run.progress.fraction, run.progress.message) == (0.4, "fitting")
    assert (await site.ends(task.task_id)).status is Status.SUCCESS


async def test_the_trace_of_the_current_span_is_taken_where_none_is_given(site: Site, sender: Sender):
    trace = pytest.importorskip("opentelemetry.trace")
    span = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(span)):
        task = await sender.send("tell")

    assert (await site.reaches(task.task_id, "pending")).traceparent == TRACEPARENT


async def test_the_example_of_the_page_runs(site: Site):
    folder = site.folder / "example"
    work, look = write_example("taskiq", folder, site.broker_url)
    client = await site.start_gateway()

    await site.start(*work, cwd=folder, ready="Listening started")
    sender = await site.start(*look, cwd=folder, **client)

    await sender.says("success {'revenue': [100, 110, 120]}")


async def test_installing_twice_changes_nothing(site: Site):
    broker = InMemoryBroker()

    first = install(broker)

    middlewares = list(broker.middlewares)
    assert install(broker) is first
    assert broker.middlewares == middlewares


def test_installing_without_an_address_says_what_to_give(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RUNSTORE_REDIS_URL", raising=False)

    with pytest.raises(InvalidRequest, match="RUNSTORE_REDIS_URL"):
        install(InMemoryBroker())
