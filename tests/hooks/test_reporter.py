"""What all hooks share: tasks told as runs, by a reporter that is never in a task's way."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest

from runstore import PublisherConfig, current_run
from runstore.adapters.store import RedisStore
from runstore.core.errors import InvalidRequest
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem, Run
from runstore.core.status import Status
from runstore.hooks.reporter import Reporter
from runstore.projector import Projector
from runstore.publish.spools import spool_for, spool_root, waiting
from tests.waiting import happens

NOWHERE = "redis://127.0.0.1:1"


class Site:
    """A reporter, and what the store makes of what it tells."""

    def __init__(self, store: RedisStore, reporter: Reporter) -> None:
        self.store = store
        self.reporter = reporter

    async def told(self, tell: Callable[[Reporter], Any]) -> None:
        """Tell something as a hook does, in a thread of its own, and wait until it is settled."""

        def work() -> None:
            if (future := tell(self.reporter)) is not None:
                self.reporter.settle(future)

        await asyncio.to_thread(work)

    async def run(self, task_id: str) -> Run:
        await Projector(self.store).drain()
        (record,) = await self.store.runs.get_many([self.reporter.run_id(task_id)])
        assert record is not None
        return record.run

    async def history(self, task_id: str) -> list[HistoryItem]:
        await Projector(self.store).drain()
        return await self.store.runs.history(self.reporter.run_id(task_id))

    async def output(self, task_id: str) -> dict[str, Any]:
        run = await self.run(task_id)
        assert run.output is not None
        parts = [part async for part in self.store.outputs.read(run.run_id, run.output, 0, run.output.output_bytes)]
        return json.loads(b"".join(parts))


@pytest.fixture
async def site(redis_url: str, real_store: RedisStore) -> AsyncIterator[Site]:
    reporter = Reporter(redis_url, "forecasts", worker="w")
    yield Site(real_store, reporter)
    await asyncio.to_thread(reporter.close)


def statuses(history: list[HistoryItem]) -> list[tuple[str, int]]:
    return [(item.status.value, item.attempt) for item in history if not item.ignored]


def test_a_task_id_that_is_a_uuid_is_the_run_id_in_its_canonical_spelling(site: Site) -> None:
    task = uuid4()

    spellings = (str(task), task.hex, str(task).upper(), task.urn, f"{{{task}}}")
    assert {site.reporter.run_id(text) for text in spellings} == {str(task)}


def test_another_task_id_gives_the_same_run_id_each_time_and_another_in_another_project(site: Site) -> None:
    first, again = site.reporter.run_id("nightly:2026-04-28"), site.reporter.run_id("nightly:2026-04-28")

    assert UUID(first).version == 5
    assert first == again
    assert Reporter(NOWHERE, "other").run_id("nightly:2026-04-28") != first


@pytest.mark.parametrize("returned", [{"revenue": [100, 110]}, [1, 2], 42, "text", None])
async def test_what_a_task_returns_becomes_the_outputs_as_it_is(site: Site, returned: Any) -> None:
    def work(reporter: Reporter) -> Any:
        reporter.queued("t")
        reporter.began("t")
        return reporter.succeeded("t", returned, attempt=1)

    await site.told(work)

    assert statuses(await site.history("t")) == [("pending", 1), ("running", 1), ("success", 1)]
    assert (await site.output("t"))["outputs"] == returned


@pytest.mark.parametrize("returned", [b"bytes", object(), {"model": object()}, float("nan"), {1, 2}])
async def test_what_cannot_be_written_is_shown_and_is_a_success(site: Site, returned: Any) -> None:
    await site.told(lambda reporter: reporter.succeeded("t", returned))

    assert (await site.run("t")).status is Status.SUCCESS
    assert "outputs" in await site.output("t")


async def test_a_result_over_the_limit_is_left_out_and_is_a_success(site: Site) -> None:
    await site.told(lambda reporter: reporter.succeeded("t", {"blob": "x" * (65 * 1024 * 1024)}))

    assert (await site.run("t")).status is Status.SUCCESS
    assert "left out" in (await site.output("t"))["stderr"]


async def test_a_failure_has_its_reason_in_one_line_and_its_traceback_in_stderr(site: Site) -> None:
    def work(reporter: Reporter) -> Any:
        reporter.began("t")
        try:
            raise ValueError("no data\nfor April")
        except ValueError as error:
            return reporter.failed("t", error)

    await site.told(work)

    run = await site.run("t")
    assert (run.status, run.error_message) == (Status.FAILED, "ValueError: no data for April")
    assert "Traceback" in (await site.output("t"))["stderr"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TimeoutError("slow"), Status.TIMED_OUT),
        (asyncio.CancelledError(), Status.CANCELLED),
        (SystemExit(0), Status.FAILED),
    ],
)
async def test_what_was_raised_says_how_the_run_ended(site: Site, error: BaseException, status: Status) -> None:
    await site.told(lambda reporter: reporter.failed("t", error))

    assert (await site.run("t")).status is status


async def test_a_retry_is_another_attempt_of_the_same_run(site: Site) -> None:
    def work(reporter: Reporter) -> Any:
        reporter.began("t", attempt=1)
        reporter.will_retry("t", ValueError("no data"), attempt=1)
        reporter.began("t", attempt=2)
        return reporter.succeeded("t", 1, attempt=2)

    await site.told(work)

    assert statuses(await site.history("t")) == [("running", 1), ("running", 2), ("success", 2)]
    assert (await site.run("t")).attempt == 2


async def test_queued_may_be_told_after_the_task_began(site: Site) -> None:
    def work(reporter: Reporter) -> Any:
        reporter.began("t")
        reporter.queued("t")
        return reporter.succeeded("t", 1)

    await site.told(work)

    assert statuses(await site.history("t")) == [("running", 1), ("success", 1)]


async def test_the_task_sees_its_run_and_its_trace(site: Site) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    seen: list[Any] = []

    def work(reporter: Reporter) -> Any:
        reporter.began("t", traceparent=trace)
        run = current_run()
        assert run is not None
        run.progress(0.5, "fitting")
        run.stdout = "said"
        seen.append((run.run_id, run.traceparent))
        told = reporter.succeeded("t", 1)
        seen.append(current_run())
        return told

    await site.told(work)

    assert seen == [(site.reporter.run_id("t"), trace), None]
    assert (await site.run("t")).traceparent == trace
    assert (await site.output("t"))["stdout"] == "said"


async def test_progress_is_told_also_where_the_beginning_is_still_to_be_sent(site: Site) -> None:
    def work(reporter: Reporter) -> None:
        _, background = reporter._publisher.here()
        held = threading.Event()
        background.loop.call_soon_threadsafe(held.wait)
        reporter.began("t")
        run = current_run()
        assert run is not None
        run.progress(0.5, "fitting")
        held.set()

    await site.told(work)

    async def is_told() -> bool:
        if not await site.history("t"):
            return False  # nobody waited for the beginning, so it may be still on its way
        progress = (await site.run("t")).progress
        return progress is not None and progress.message == "fitting"

    await happens(is_told)


async def test_a_store_that_is_away_is_never_in_a_tasks_way(spool_dir: Path) -> None:
    def work() -> None:
        reporter = Reporter(NOWHERE, "forecasts", config=PublisherConfig(patience_s=0.2))
        reporter.queued("t")
        reporter.began("t")
        reporter.settle(reporter.succeeded("t", 1))
        reporter.close()
        reporter.began("u")
        reporter.settle(reporter.failed("u", "after the end"))

    await asyncio.to_thread(work)

    assert sum(each.events for each in waiting(spool_dir)) == 3


async def test_a_forked_child_tells_by_itself(site: Site) -> None:
    await site.told(lambda reporter: reporter.queued("t"))

    child = os.fork()
    if child == 0:
        site.reporter.began("t")
        site.reporter.settle(site.reporter.succeeded("t", 1))
        os._exit(0)  # as RQ's work horses do
    await asyncio.to_thread(os.waitpid, child, 0)

    assert statuses(await site.history("t")) == [("pending", 1), ("running", 1), ("success", 1)]


async def test_a_run_whose_end_was_told_elsewhere_keeps_it(site: Site) -> None:
    def work(reporter: Reporter) -> Any:
        reporter.began("t")
        reporter.settle(reporter.ended("t", Status.CANCELLED, "revoked"))
        return reporter.succeeded("t", 1)

    await site.told(work)

    run = await site.run("t")
    assert (run.status, run.error_message) == (Status.CANCELLED, "revoked")
    assert run.run_id == RunId(site.reporter.run_id("t"))


async def test_what_a_child_could_not_tell_is_told_by_its_parent_when_the_store_is_there(
    site: Site, redis_url: str
) -> None:
    nowhere = urlsplit(redis_url)._replace(netloc="127.0.0.1:1").geturl()
    child = os.fork()
    if child == 0:
        reporter = Reporter(nowhere, "forecasts", config=PublisherConfig(patience_s=0.2))
        reporter.settle(reporter.succeeded("t", 1))
        os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    (left,) = [Path(each.path) for each in waiting(spool_root(PublisherConfig()))]
    ours = spool_for(redis_url, PublisherConfig()).folder
    ours.mkdir(parents=True, exist_ok=True)
    left.rename(ours / left.name)

    site.reporter.adopt()

    await happens(lambda: not list(waiting(ours)))
    assert (await site.run("t")).status is Status.SUCCESS


async def test_a_failure_whose_output_is_over_the_limit_keeps_its_traceback(site: Site) -> None:
    def tell(reporter: Reporter) -> Any:
        run = reporter.began("t")
        assert run is not None
        run.stdout = "x" * (65 * 1024 * 1024)
        try:
            raise ValueError("no data")
        except ValueError as error:
            return reporter.failed("t", error)

    await site.told(tell)

    stderr = (await site.output("t"))["stderr"]
    assert "ValueError: no data\nrunstore: the output was left out: " in stderr


async def test_an_end_is_told_whatever_lies_in_the_run(site: Site) -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError

    def tell(reporter: Reporter) -> Any:
        run = reporter.began("t")
        assert run is not None
        run.stdout = Mute()  # type: ignore[assignment]
        return reporter.succeeded("t", 1)

    await site.told(tell)

    assert (await site.run("t")).status is Status.SUCCESS
    assert (await site.output("t"))["stderr"] == "runstore: the output was left out: RuntimeError\n"


async def test_a_task_id_that_nothing_can_be_made_of_is_in_no_ones_way(site: Site) -> None:
    def tell(reporter: Reporter) -> Any:
        assert reporter.began("\ud800") is None
        reporter.settle(reporter.queued("\ud800"))
        return reporter.succeeded("\ud800", 1)

    await site.told(tell)


def test_a_reporter_without_address_or_project_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNSTORE_REDIS_URL", "RUNSTORE_PROJECT"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(InvalidRequest, match="RUNSTORE_REDIS_URL"):
        Reporter(project="forecasts")
    with pytest.raises(InvalidRequest, match="project"):
        Reporter(NOWHERE)
