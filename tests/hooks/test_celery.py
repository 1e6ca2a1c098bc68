"""The hook for Celery, with real workers of each pool."""

import asyncio
import gc
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("celery")

from celery import Celery, chain, group
from celery.result import AsyncResult

from runstore.core.errors import InvalidRequest
from runstore.hooks.celery import install
from tests.hooks.celery_app import make_app
from tests.hooks.example import write_example
from tests.hooks.process import WorkerProcess
from tests.hooks.site import SHORT_LEASE_S, Site

POOLS = ("prefork", "threads", "solo")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def app(site: Site) -> Iterator[Celery]:
    """The app as a client has it."""
    made = make_app()
    yield made
    gc.collect()  # a result that is forgotten when the broker is gone tries to reach it
    install(made).close()
    made.close()


async def worker(site: Site, pool: str = "prefork", *, processes: int = 1, **env: str) -> WorkerProcess:
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO")
    argv = ("-m", "celery", "-A", "tests.hooks.celery_app", "worker", f"--pool={pool}", f"-c{processes}", *quiet)
    return await site.start(*argv, ready=" ready.", **env)


def send(app: Celery, task: str, *args: Any, **options: Any) -> "AsyncResult[Any]":
    return app.tasks[f"tests.hooks.celery_app.{task}"].apply_async(args, **options)


async def result_of(result: "AsyncResult[Any]") -> Any:
    """Wait for what Celery itself says that a task returned."""
    return await asyncio.to_thread(result.get, timeout=30)


@pytest.mark.parametrize("pool", POOLS)
async def test_a_task_that_returns_is_a_success_with_what_it_returned(site: Site, app: Celery, pool: str) -> None:
    await worker(site, pool)

    task = send(app, "returns", "a dict")

    run = await site.ends(task.id)
    assert (run.status, run.run_id) == ("success", task.id)
    assert await site.story(task.id) == ["running 1", "success"]
    assert (await site.output(task.id))["outputs"] == {"revenue": [100, 110, 121]}
    assert await site.leases() == 0


async def test_a_task_is_pending_before_a_worker_is_there(site: Site, app: Celery) -> None:
    task = send(app, "adds", 1, 2)

    assert (await site.reaches(task.id, "pending")).status == "pending"
    await worker(site)
    assert (await site.ends(task.id)).status == "success"
    assert [item.status for item in await site.history(task.id)] == ["pending", "running", "success"]


@pytest.mark.parametrize(
    ("kind", "outputs", "note"),
    [
        ("nothing", None, ""),
        ("a number", 42, ""),
        ("bytes", "AP8=", ""),
        ("an object", "<object object at", "replaced by their repr"),
        ("too much", None, "left out"),
    ],
)
async def test_a_task_succeeds_whatever_it_returns(site: Site, app: Celery, kind: str, outputs: Any, note: str) -> None:
    process = await worker(site)

    task = send(app, "returns", kind, ignore_result=True)

    await process.says(f"[{task.id}] succeeded")
    assert (await site.ends(task.id)).status == "success"
    output = await site.output(task.id)
    assert str(output["outputs"]).startswith(str(outputs))
    assert note in output["stderr"]


async def test_what_celery_itself_cannot_store_is_a_failure_as_it_is_for_celery(site: Site, app: Celery) -> None:
    await worker(site)

    task = send(app, "returns", "an object")

    run = await site.ends(task.id)
    assert run.status == "failed"
    assert run.error_message is not None
    assert run.error_message.startswith("EncodeError: ")


@pytest.mark.parametrize("pool", POOLS)
async def test_a_task_that_raises_is_failed_with_its_reason(site: Site, app: Celery, pool: str) -> None:
    await worker(site, pool)

    task = send(app, "raises")

    run = await site.ends(task.id)
    assert (run.status, run.error_message) == ("failed", "ValueError: no data")
    stderr = (await site.output(task.id))["stderr"]
    assert "Traceback" in stderr
    assert "in raises" in stderr


async def test_an_error_that_cannot_be_pickled_is_told_as_it_was_raised(site: Site, app: Celery) -> None:
    await worker(site)

    task = send(app, "raises_picky")

    assert (await site.ends(task.id)).error_message == "Picky: no data"
    assert "in raises_picky" in (await site.output(task.id))["stderr"]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("task_name", ["retries", "retries_by_itself"])
async def test_a_retry_is_another_attempt_of_the_same_run(site: Site, app: Celery, pool: str, task_name: str) -> None:
    await worker(site, pool)

    task = send(app, task_name, 1)

    assert (await site.ends(task.id)).status == "success"
    assert await site.story(task.id) == ["running 1", "running 2", "success"]
    assert not [item for item in await site.history(task.id) if item.ignored and item.status != "pending"]


@pytest.mark.parametrize("task_name", ["retries", "retries_by_itself"])
async def test_a_task_whose_retries_are_used_up_is_failed_once(site: Site, app: Celery, task_name: str) -> None:
    await worker(site)

    task = send(app, task_name, 9)

    run = await site.ends(task.id)
    assert (run.status, run.error_message) == ("failed", "ValueError: no data")
    attempts = 4 if task_name == "retries" else 2
    assert await site.story(task.id) == [*(f"running {n}" for n in range(1, attempts + 1)), "failed"]


async def test_a_soft_time_limit_times_a_run_out(site: Site, app: Celery) -> None:
    await worker(site)

    task = send(app, "sleeps", soft_time_limit=1)

    run = await site.ends(task.id)
    assert (run.status, run.error_message) == ("timed_out", "SoftTimeLimitExceeded: no end within 1 s")
    assert "in sleeps" in (await site.output(task.id))["stderr"]


async def test_a_hard_time_limit_times_a_run_out_though_it_kills_the_process(site: Site, app: Celery) -> None:
    await worker(site)

    task = send(app, "sleeps", time_limit=1)

    run = await site.ends(task.id)
    assert (run.status, run.error_message) == ("timed_out", "TimeLimitExceeded: no end within 1 s")
    assert await site.story(task.id) == ["running 1", "timed_out"]


@pytest.mark.parametrize("pool", POOLS)
async def test_a_task_that_is_revoked_in_the_queue_is_cancelled(site: Site, app: Celery, pool: str) -> None:
    process = await worker(site, pool)
    task_id = str(uuid4())
    app.control.revoke(task_id)
    await process.says("flagged as revoked")

    send(app, "adds", 1, 2, task_id=task_id)

    run = await site.ends(task_id)
    assert (run.status, run.error_message) == ("cancelled", "revoked")
    assert await site.story(task_id) == ["cancelled"]


async def test_a_task_that_is_revoked_when_a_worker_has_fetched_it_is_cancelled(site: Site, app: Celery) -> None:
    process = await worker(site)
    busy = send(app, "waits", "go")
    await site.hears("go begun")
    task = send(app, "adds", 1, 2)
    await process.says(f"[{task.id}] received")

    app.control.revoke(task.id)
    await process.says("flagged as revoked")
    await site.say("go")

    assert (await site.ends(task.id)).error_message == "revoked"
    assert (await site.ends(busy.id)).status == "success"


async def test_a_task_that_is_terminated_is_cancelled(site: Site, app: Celery) -> None:
    await worker(site)
    task = send(app, "sleeps")
    await site.reaches(task.id, "running")

    app.control.revoke(task.id, terminate=True)

    run = await site.ends(task.id)
    assert (run.status, run.error_message) == ("cancelled", "revoked while it ran")


async def test_a_task_that_expires_in_the_queue_is_timed_out(site: Site, app: Celery) -> None:
    task = send(app, "adds", 1, 2, expires=datetime(2026, 4, 28, tzinfo=UTC))
    await worker(site)

    run = await site.ends(task.id)
    assert (run.status, run.error_message) == ("timed_out", "it expired before a worker took it")


async def test_a_task_that_no_worker_knows_is_failed(site: Site, app: Celery) -> None:
    await worker(site)

    task = app.send_task("nobody.knows")

    assert (await site.ends(task.id)).error_message == "NotRegistered: no worker knows the task 'nobody.knows'"


async def test_any_task_id_names_a_run(site: Site, app: Celery) -> None:
    await worker(site)

    for task_id in ("nightly:2026-04-28", str(uuid4()).upper(), uuid4().hex):
        send(app, "adds", 1, 2, task_id=task_id)

        assert (await site.ends(task_id)).status == "success"


@pytest.mark.parametrize("pool", POOLS)
async def test_a_worker_that_is_killed_leaves_a_failed_run(site: Site, app: Celery, pool: str) -> None:
    process = await worker(site, pool, SITE_LEASE_S=SHORT_LEASE_S)
    task = send(app, "sleeps")
    await site.reaches(task.id, "running")
    await site.holds(1)

    await process.kill()

    run = await site.ends(task.id)
    assert (run.status, run.error_message) == ("failed", "worker lost")


async def test_a_process_that_is_killed_under_a_living_worker_is_told_by_it(site: Site, app: Celery) -> None:
    await worker(site)

    task = send(app, "dies")

    run = await site.ends(task.id)
    assert run.status == "failed"
    assert run.error_message is not None
    assert run.error_message.startswith("WorkerLostError: ")
    assert "SIGKILL" in run.error_message


async def test_a_task_that_is_redelivered_after_its_process_was_lost_goes_on(site: Site, app: Celery) -> None:
    await worker(site)

    task = send(app, "dies_once")

    assert await result_of(task) == 2
    run = await site.ends(task.id)
    assert run.status == "success"
    assert (await site.output(task.id))["outputs"] == 2


@pytest.mark.parametrize("pool", POOLS)
async def test_what_happened_while_the_store_was_away_is_told_when_it_is_back(
    site: Site, app: Celery, pool: str
) -> None:
    await worker(site, pool)
    before = send(app, "waits", "go")
    await site.hears("go begun")

    await site.stop_store()
    await site.say("go")
    assert await result_of(before) == "go"
    meanwhile = send(app, "adds", 1, 2)
    assert await result_of(meanwhile) == 3
    await site.start_store()

    assert (await site.ends(before.id)).status == "success"
    assert (await site.ends(meanwhile.id)).status == "success"
    assert await site.story(meanwhile.id) == ["running 1", "success"]


async def test_a_store_that_never_answers_stops_no_task(site: Site, app: Celery) -> None:
    site.freeze_store()
    await worker(site)

    tasks = [send(app, "adds", n, 1) for n in range(5)]

    assert [await result_of(task) for task in tasks] == [1, 2, 3, 4, 5]


async def test_a_store_that_is_away_for_good_stops_no_task(site: Site, app: Celery) -> None:
    await site.stop_store()
    await worker(site)

    assert await result_of(send(app, "adds", 1, 2)) == 3
    with pytest.raises(ValueError, match="no data"):
        await result_of(send(app, "raises"))
    assert await result_of(send(app, "retries", 1)) == 1


@pytest.mark.parametrize("pool", POOLS)
async def test_a_trace_that_is_given_with_a_task_comes_out_in_it(site: Site, app: Celery, pool: str) -> None:
    await worker(site, pool)

    task = send(app, "traced", headers={"traceparent": TRACE})

    assert await result_of(task) == TRACE
    assert (await site.ends(task.id)).traceparent == TRACE


async def test_a_trace_goes_along_a_chain_and_a_retry(site: Site, app: Celery) -> None:
    await worker(site)
    first, second = app.tasks["tests.hooks.celery_app.retries"], app.tasks["tests.hooks.celery_app.traced"]

    last = chain(first.s(1).set(headers={"traceparent": TRACE}), second.s()).apply_async()

    assert await result_of(last) == TRACE


async def test_the_current_span_goes_along_where_no_trace_is_given(site: Site, app: Celery) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    await worker(site)
    context = trace.SpanContext(trace_id=7, span_id=9, is_remote=False, trace_flags=trace.TraceFlags(1))

    with trace.use_span(trace.NonRecordingSpan(context)):
        task = send(app, "traced")

    assert await result_of(task) == f"00-{7:032x}-{9:016x}-01"


async def test_the_tasks_of_chains_and_groups_are_runs_of_their_own(site: Site, app: Celery) -> None:
    await worker(site, processes=2)
    adds = app.tasks["tests.hooks.celery_app.adds"]

    last = chain(adds.s(1, 2), adds.s(10)).apply_async()
    both = group(adds.s(1, 1), adds.s(2, 2)).apply_async()

    for task, outputs in ((last.parent, 3), (last, 13), (both.children[0], 2), (both.children[1], 4)):
        assert (await site.ends(task.id)).status == "success"
        assert (await site.output(task.id))["outputs"] == outputs


async def test_a_task_tells_how_far_it_is(site: Site, app: Celery) -> None:
    await worker(site)

    task = send(app, "progresses")

    run = await site.until(task.id, lambda run, _: run.progress is not None)
    assert run.progress is not None
    assert (run.progress.fraction, run.progress.message) == (0.4, "fitting")
    await site.say("progress seen")
    assert await result_of(task) == run.run_id
    assert (await site.ends(task.id)).status == "success"
    assert (await site.output(task.id))["stdout"] == "fitted\n"


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("ignored", "cancelled", "Ignore: not today"),
        ("rejected", "failed", "Reject: no use"),
        ("put back", "success", None),
        ("replaced", "success", None),
    ],
)
async def test_a_task_that_leaves_without_a_result_ends_all_the_same(
    site: Site, app: Celery, pool: str, how: str, status: str, reason: str | None
) -> None:
    await worker(site, pool)

    task = send(app, "leaves", how)

    run = await site.ends(task.id)
    assert (run.status, run.error_message) == (status, reason)
    if how == "replaced":
        assert (await site.output(task.id))["outputs"] == 42


async def test_a_task_that_asks_for_a_redelivery_that_celery_does_not_make_is_failed(site: Site, app: Celery) -> None:
    await worker(site)

    task = send(app, "is_put_back_in_vain")  # its message was acknowledged when it began

    run = await site.ends(task.id)
    assert (run.status, run.error_message) == ("failed", "Reject: later")


async def test_a_task_that_is_applied_in_place_is_a_run_too(site: Site, app: Celery) -> None:
    task = await asyncio.to_thread(app.tasks["tests.hooks.celery_app.retries"].apply, (1,))

    assert (await site.ends(task.id)).status == "success"
    assert await site.story(task.id) == ["running 1", "running 2", "success"]


async def test_two_apps_in_a_process_tell_of_their_own_tasks_only(site: Site, app: Celery) -> None:
    other = Celery("other", broker=site.broker_url)
    hook = install(other, project="other")

    @other.task(name="theirs")
    def theirs() -> None: ...

    ours = send(app, "adds", 1, 2)
    task = theirs.delay()

    assert (await site.reaches(ours.id, "pending")).project_name == "forecasts"
    assert (await site.reaches(task.id, "pending")).project_name == "other"
    assert len(await site.history(ours.id)) == len(await site.history(task.id)) == 1
    await asyncio.to_thread(hook.close)


async def test_the_example_of_the_page_runs(site: Site) -> None:
    folder = site.folder / "example"
    work, look = write_example("celery", folder, site.broker_url)
    client = await site.start_gateway()

    await site.start(*work, cwd=folder, ready=" ready.")
    sender = await site.start(*look, cwd=folder, **client)

    await sender.says("success {'revenue': [100, 110, 120]}")


def test_installing_twice_gives_the_same_hook(site: Site, app: Celery) -> None:
    assert install(app) is install(app)


def test_an_install_without_a_project_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNSTORE_PROJECT", raising=False)

    with pytest.raises(InvalidRequest, match="RUNSTORE_PROJECT"):
        install(Celery("forecasts"), redis_url="redis://127.0.0.1:1")
