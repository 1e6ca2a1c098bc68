"""The hook for Dramatiq, with real brokers and real workers."""

import asyncio
import signal
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("dramatiq")

from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

from runstore.core.errors import InvalidRequest
from runstore.core.status import Status
from runstore.hooks.dramatiq import install
from tests.hooks import dramatiq_app
from tests.hooks.example import write_example
from tests.hooks.process import WorkerProcess
from tests.hooks.site import SHORT_LEASE_S, Site
from tests.hooks.tasks import RETURNS
from tests.waiting import happens

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SOON = {"min_backoff": 10, "max_backoff": 20}


class Sender:
    """Sends messages from the test's own process."""

    def __init__(self, site: Site) -> None:
        self.broker = dramatiq_app.build(site.broker_url)
        self.broker.declare_queue("default")

    def send(self, actor: str, *args: Any, delay: int | None = None, message_id: str | None = None, **options) -> str:
        message_id = message_id or str(uuid4())
        message = Message(
            queue_name="default", actor_name=actor, args=args, kwargs={}, options=options, message_id=message_id
        )
        self.broker.enqueue(message, delay=delay)
        return message_id

    def count(self, kind: str) -> int:
        """Count the messages that wait (`""`), are delayed (`DQ`) or were rejected (`XQ`)."""
        key = f"dramatiq:default{'.' if kind else ''}{kind}"
        return self.broker.client.zcard(key) if kind == "XQ" else self.broker.client.llen(key)


@pytest.fixture
def sender(site: Site) -> Sender:
    return Sender(site)


async def work(site: Site, *options: str, **env: str) -> WorkerProcess:
    command = ("-m", "dramatiq", "tests.hooks.dramatiq_app", "--processes", "1", "--threads", "2", *options)
    return await site.start(*command, ready="ready for action", **env)


async def test_a_message_is_pending_when_it_is_sent_and_running_when_a_worker_has_it(site: Site, sender: Sender):
    message_id = sender.send("meet", "here")
    assert (await site.reaches(message_id, "pending")).status is Status.PENDING

    await work(site)
    run = await site.reaches(message_id, "running")
    await site.say("here-goes-on")

    assert (run.run_id, run.project_name, run.attempt) == (message_id, "forecasts", 1)
    assert (await site.ends(message_id)).status is Status.SUCCESS


@pytest.mark.parametrize("kind", RETURNS)
async def test_a_message_succeeds_with_what_its_actor_returns(site: Site, sender: Sender, kind: str):
    await work(site)

    message_id = sender.send("succeed", kind)
    run = await site.ends(message_id)

    assert run.status is Status.SUCCESS
    await asyncio.to_thread(sender.broker.join, "default")
    assert sender.count("XQ") == 0
    output = await site.output(message_id)
    if kind == "a dict":
        assert output["outputs"] == {"revenue": [100, 110, 121]}
    elif kind == "too much":
        assert "left out" in output["stderr"]


async def test_results_that_dramatiq_keeps_are_kept_beside_the_runs(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SITE_RESULTS", "1")
    sender = Sender(site)
    await work(site)

    message_id = sender.send("succeed", "a number")
    await site.ends(message_id)

    message = Message("default", "succeed", ("a number",), {}, {}, message_id=message_id)
    backend = sender.broker.get_results_backend()
    assert await asyncio.to_thread(message.get_result, backend=backend, block=True) == 42
    assert (await site.output(message_id))["outputs"] == 42


async def test_a_message_fails_with_the_reason_and_its_traceback(site: Site, sender: Sender):
    await work(site)

    message_id = sender.send("fail", max_retries=0)
    run = await site.ends(message_id)

    assert (run.status, run.error_message) == (Status.FAILED, "ValueError: no data")
    assert "in fail\n" in (await site.output(message_id))["stderr"]


async def test_a_retry_is_another_attempt_of_the_same_run(site: Site, sender: Sender):
    await work(site)

    message_id = sender.send("fail_once", **SOON)
    run = await site.ends(message_id)

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)
    assert await site.story(message_id) == ["running 1", "running 2", "success"]
    assert not any(item.ignored for item in await site.history(message_id) if item.status != "pending")


async def test_retries_that_are_used_up_end_the_run_once(site: Site, sender: Sender):
    await work(site)

    message_id = sender.send("fail", max_retries=2, **SOON)
    run = await site.ends(message_id)

    assert (run.status, run.attempt, run.error_message) == (Status.FAILED, 3, "ValueError: no data")
    assert await site.story(message_id) == ["running 1", "running 2", "running 3", "failed"]


async def test_what_an_actor_throws_as_declared_is_not_retried_and_fails(site: Site, sender: Sender):
    await work(site)

    run = await site.ends(sender.send("refuse"))

    assert (run.status, run.error_message, run.attempt) == (Status.FAILED, "Refusal: not mine", 1)


async def test_a_message_past_its_time_limit_times_out(site: Site, sender: Sender):
    await work(site)

    message_id = sender.send("loop", "here", time_limit=100, max_retries=0)
    run = await site.ends(message_id)

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "TimeLimitExceeded")
    assert "in loop\n" in (await site.output(message_id))["stderr"]


async def test_a_message_past_its_age_limit_times_out_without_having_run(site: Site, sender: Sender):
    message_id = sender.send("succeed", "a dict", max_age=1)
    await site.reaches(message_id, "pending")

    await work(site)
    run = await site.ends(message_id)

    assert (run.status, run.started_us) == (Status.TIMED_OUT, None)
    assert run.error_message == "message age limit exceeded"


@pytest.mark.parametrize(("gate", "reason"), [("skip", "skipped"), ("reject", "rejected")])
async def test_a_message_that_a_middleware_lets_nobody_process_is_cancelled(
    site: Site, sender: Sender, gate: str, reason: str
):
    await work(site)

    run = await site.ends(sender.send("succeed", "a dict", gate=gate))

    assert (run.status, run.error_message) == (Status.CANCELLED, f"{reason} by a middleware")


async def test_a_message_that_is_aborted_while_it_waits_or_runs_is_cancelled(site: Site, sender: Sender):
    abort = pytest.importorskip("dramatiq_abort").abort
    (abortable,) = (made for made in sender.broker.middleware if type(made).__name__ == "Abortable")
    waiting = sender.send("meet", "never")
    abort(waiting, abortable)

    await work(site)
    running = sender.send("loop", "here")
    await site.hears("here-begun")
    abort(running, abortable)

    assert (await site.ends(waiting)).status is Status.CANCELLED
    assert (await site.ends(running)).status is Status.CANCELLED


async def test_a_message_that_a_stopped_worker_gives_up_is_cancelled(site: Site, sender: Sender):
    worker = await work(site)
    message_id = sender.send("loop", "here", notify_shutdown=True, max_retries=0)
    await site.hears("here-begun")

    await worker.stop(signal.SIGTERM)
    run = await site.ends(message_id)

    assert (run.status, run.error_message) == (Status.CANCELLED, "Shutdown")


async def test_a_message_that_a_stopped_worker_gives_back_goes_on_in_another(site: Site, sender: Sender):
    worker = await work(site)
    message_id = sender.send("loop_once", "here", notify_shutdown=True, **SOON)
    await site.hears("here-begun")

    await worker.stop(signal.SIGTERM)
    await work(site)
    run = await site.ends(message_id)

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)


async def test_a_delayed_message_is_pending_once(site: Site, sender: Sender):
    await work(site)

    message_id = sender.send("succeed", "a dict", delay=50)
    await site.ends(message_id)

    assert [item.status for item in await site.history(message_id)].count(Status.PENDING) == 1


async def test_a_message_whose_actor_no_worker_has_fails(site: Site, sender: Sender):
    await work(site)

    run = await site.ends(sender.send("unheard_of"))

    assert (run.status, run.error_message) == (Status.FAILED, "ActorNotFound: unheard_of")


async def test_a_message_id_that_is_no_uuid_has_a_run_of_its_own(site: Site, sender: Sender):
    await work(site)

    sender.send("succeed", "a dict", message_id="forecast of April")
    run = await site.ends("forecast of April")

    assert (run.status, run.run_id) == (Status.SUCCESS, site.run_id("forecast of April"))


async def test_a_worker_that_is_killed_loses_its_run(site: Site, sender: Sender):
    worker = await work(site, SITE_LEASE_S=SHORT_LEASE_S)
    message_id = sender.send("loop", "here")
    await site.hears("here-begun")
    await happens(site.leases)

    await worker.kill()
    run = await site.ends(message_id)

    assert (run.status, run.error_message) == (Status.FAILED, "worker lost")


async def test_what_happens_while_the_store_is_away_is_told_when_it_is_back(site: Site, sender: Sender):
    await work(site)
    message_id = sender.send("meet", "here")
    await site.hears("here-begun")

    await site.stop_store()
    await site.say("here-goes-on")
    await asyncio.to_thread(sender.broker.join, "default", timeout=20_000)
    await site.start_store()

    assert (await site.ends(message_id)).status is Status.SUCCESS
    assert await site.story(message_id) == ["running 1", "success"]


async def test_messages_are_processed_while_the_store_is_away_for_good(site: Site, sender: Sender):
    await work(site)
    await site.stop_store()

    for _ in range(3):
        sender.send("succeed", "a dict")
    await asyncio.to_thread(sender.broker.join, "default", timeout=30_000)

    assert (sender.count(""), sender.count("DQ"), sender.count("XQ")) == (0, 0, 0)


@pytest.mark.parametrize("actor", ["tell", "tell_async"])
async def test_a_trace_goes_from_the_sender_to_the_actor(site: Site, sender: Sender, actor: str):
    if actor == "tell_async" and dramatiq_app.AsyncIO is None:
        pytest.skip("this Dramatiq has no async actors")
    await work(site)

    message_id = sender.send(actor, traceparent=TRACEPARENT)
    run = await site.ends(message_id)

    assert run.traceparent == TRACEPARENT
    assert (await site.output(message_id))["outputs"] == {"run_id": run.run_id, "traceparent": TRACEPARENT}


async def test_a_trace_goes_from_an_actor_to_the_messages_that_it_sends(site: Site, sender: Sender):
    await work(site)

    first = sender.send("pass_on", traceparent=TRACEPARENT)
    await site.ends(first)
    second = (await site.output(first))["outputs"]

    assert (await site.ends(second)).traceparent == TRACEPARENT


async def test_the_trace_of_the_current_span_is_taken_where_none_is_given(site: Site, sender: Sender):
    trace = pytest.importorskip("opentelemetry.trace")
    span = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(span)):
        message_id = sender.send("tell")

    assert (await site.reaches(message_id, "pending")).traceparent == TRACEPARENT


async def test_an_actor_tells_of_its_progress(site: Site, sender: Sender):
    await work(site)

    message_id = sender.send("halfway", "here")
    run = await site.until(message_id, lambda run, _: run.progress is not None)
    await site.say("here-goes-on")

    assert run.progress is not None
    assert (run.progress.fraction, run.progress.message) == (0.5, "half")
    assert (await site.ends(message_id)).status is Status.SUCCESS


async def test_messages_are_processed_by_workers_that_are_spawned(site: Site, sender: Sender):
    await work(site, "--use-spawn")

    message_ids = [sender.send("succeed", "a dict") for _ in range(3)]

    assert [(await site.ends(message_id)).status for message_id in message_ids] == [Status.SUCCESS] * 3


async def test_a_store_that_does_not_answer_holds_up_a_message_for_seconds_at_most(site: Site, sender: Sender):
    await work(site)
    site.freeze_store()

    message_id = sender.send("meet", "here")
    await site.say("here-goes-on")
    await asyncio.to_thread(sender.broker.join, "default", timeout=20_000)
    site.thaw_store()

    assert (await site.ends(message_id)).status is Status.SUCCESS


async def test_the_example_of_the_page_runs(site: Site):
    folder = site.folder / "example"
    work, look = write_example("dramatiq", folder, site.broker_url)
    client = await site.start_gateway()

    await site.start(*work, cwd=folder, ready="ready for action")
    sender = await site.start(*look, cwd=folder, **client)

    await sender.says("success {'revenue': [100, 110, 120]}")


def test_installing_twice_changes_nothing(site: Site):
    broker = RedisBroker(url=site.broker_url)

    first = install(broker)

    middlewares = list(broker.middleware)
    assert install(broker) is first
    assert broker.middleware == middlewares


def test_installing_without_an_address_says_what_to_give(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RUNSTORE_REDIS_URL", raising=False)

    with pytest.raises(InvalidRequest, match="RUNSTORE_REDIS_URL"):
        install(RedisBroker(middleware=[]))
