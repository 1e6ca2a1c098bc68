"""Publishing and tracking: what reaches the store, and what becomes of the work's own errors."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from runstore import (
    AsyncPublisher,
    InvalidRequest,
    InvalidRunId,
    PayloadTooLarge,
    Publisher,
    PublisherConfig,
    StoreUnavailable,
    current_run,
)
from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId, parse_run_id
from runstore.core.run import Run
from runstore.projector import Projector
from runstore.publish.tracked import writable

NOWHERE = "redis://127.0.0.1:1/0"


class Told:
    """What the store made of what was published."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.projector = Projector(store)

    async def run(self, run_id: str) -> Run:
        await self.projector.drain()
        record = (await self.store.runs.get_many([RunId(run_id)]))[0]
        assert record is not None
        return record.run

    async def output(self, run_id: str) -> dict[str, Any]:
        run = await self.run(run_id)
        ref = run.output or run.late_output
        assert ref is not None
        whole = b"".join([part async for part in self.store.outputs.read(run.run_id, ref, 0, ref.output_bytes)])
        decoded: dict[str, Any] = msgspec.json.decode(whole)
        return decoded

    async def statuses(self, run_id: str) -> list[str]:
        await self.projector.drain()
        return [item.status.value for item in await self.store.runs.history(RunId(run_id)) if not item.ignored]


@pytest.fixture
async def told(real_store: RedisStore) -> Told:
    return Told(real_store)


@pytest.fixture
async def publisher(redis_url: str, told: Told) -> AsyncIterator[AsyncPublisher]:
    async with AsyncPublisher(redis_url, "forecasts") as opened:
        yield opened


async def test_tracked_work_runs_and_succeeds_with_what_it_put_there(publisher: AsyncPublisher, told: Told) -> None:
    async with publisher.track(commit_sha="abc1234", tags=["a", "b"]) as run:
        run.outputs["revenue"] = [100, 110, 121]
        run.stdout += "fitted\n"

    shown = await told.run(run.run_id)
    assert (shown.status, shown.project_name, shown.commit_sha, shown.tags) == (
        "success",
        "forecasts",
        "abc1234",
        ("a", "b"),
    )
    assert shown.started_us is not None
    assert await told.statuses(run.run_id) == ["running", "success"]
    assert await told.output(run.run_id) == {
        "status": "success",
        "exit_code": None,
        "stdout": "fitted\n",
        "stderr": "",
        "outputs": {"revenue": [100, 110, 121]},
    }


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("no\ndata"), "failed", "ValueError: no data"),
        (TimeoutError(), "timed_out", "TimeoutError"),
        (asyncio.CancelledError(), "cancelled", "CancelledError"),
        (KeyboardInterrupt(), "cancelled", "KeyboardInterrupt"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (Odd(), "failed", "Odd"),
        (ValueError("half a \ud83d pair"), "failed", "ValueError: half a \\ud83d pair"),
    ],
)
def test_an_error_is_told_and_goes_on_as_it_was(redis_url: str, error: BaseException, status: str, reason: str) -> None:
    run_id = str(uuid4())

    def work(publisher: Publisher) -> None:
        with publisher.track(run_id=run_id) as run:
            run.outputs["so far"] = 1
            raise error

    with Publisher(redis_url, "forecasts") as publisher, pytest.raises(type(error)) as raised:
        work(publisher)
    assert raised.value is error

    async def look() -> None:
        async with RedisStore.open(redis_url) as store:
            told = Told(store)
            shown = await told.run(run_id)
            assert (shown.status.value, shown.error_message) == (status, reason)
            output = await told.output(run_id)
            assert "Traceback" in output["stderr"]
            assert output["outputs"] == {"so far": 1}

    asyncio.run(look())


async def test_work_that_is_cancelled_from_outside_is_cancelled(publisher: AsyncPublisher, told: Told) -> None:
    began = asyncio.Event()
    run_id = str(uuid4())

    async def work() -> None:
        async with publisher.track(run_id=run_id):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await told.run(run_id)).status == "cancelled"


async def test_nested_tracking_makes_two_runs(publisher: AsyncPublisher, told: Told) -> None:
    ids: list[str] = []

    async def work() -> None:
        async with publisher.track("outer") as outer:
            assert current_run() is outer
            async with publisher.track("inner") as inner:
                assert current_run() is inner
                ids.extend((outer.run_id, inner.run_id))
                raise ValueError("deep down")

    with pytest.raises(ValueError, match="deep down"):
        await work()

    assert current_run() is None
    assert [(await told.run(run_id)).project_name for run_id in ids] == ["outer", "inner"]
    assert [(await told.run(run_id)).error_message for run_id in ids] == ["ValueError: deep down"] * 2


async def test_each_call_of_a_decorated_function_is_a_run(publisher: AsyncPublisher, told: Told) -> None:
    seen: list[str] = []

    @publisher.track("forecasts")
    async def fit(horizon: int) -> dict[str, int]:
        """Fit."""
        run = current_run()
        assert run is not None
        seen.append(run.run_id)
        return {"horizon": horizon}

    assert await fit(3) == {"horizon": 3}
    assert await fit(horizon=4) == {"horizon": 4}
    assert fit.__doc__ == "Fit."
    assert [(await told.output(run_id))["outputs"] for run_id in seen] == [{"horizon": 3}, {"horizon": 4}]


@pytest.mark.parametrize("returned", [{"revenue": [100]}, MappingProxyType({"a": 1}), [1, 2], 42, "text", 0, None])
async def test_what_a_decorated_function_returns_becomes_the_outputs_as_it_is(
    publisher: AsyncPublisher, redis_url: str, told: Told, returned: Any
) -> None:
    ids: list[str] = []

    def work() -> Any:
        run = current_run()
        assert run is not None
        ids.append(run.run_id)
        return returned

    @publisher.track("forecasts")
    async def work_in_loop() -> Any:
        return work()

    def work_in_thread() -> Any:
        with Publisher(redis_url) as blocking:
            return blocking.track("forecasts")(work)()

    assert await work_in_loop() is returned
    assert await asyncio.to_thread(work_in_thread) is returned
    expected = dict(returned) if isinstance(returned, MappingProxyType) else returned
    assert [(await told.output(run_id))["outputs"] for run_id in ids] == [expected, expected]


class Obstinate:
    """Like a table or an array, which cannot be asked whether it equals something."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


async def test_work_that_returns_none_has_what_it_put_there_for_its_outputs(
    publisher: AsyncPublisher, told: Told
) -> None:
    ids: list[str] = []

    @publisher.track("forecasts")
    async def work(outputs: Any) -> None:
        run = current_run()
        assert run is not None
        run.outputs = outputs
        ids.append(run.run_id)

    await work({"a": 1})
    await work(Obstinate())

    assert (await told.output(ids[0]))["outputs"] == {"a": 1}
    assert "Obstinate" in (await told.output(ids[1]))["outputs"]


async def test_a_decorator_of_the_wrong_kind_says_so(publisher: AsyncPublisher, redis_url: str) -> None:
    with pytest.raises(TypeError, match="Publisher"):
        publisher.track("forecasts")(lambda: None)  # type: ignore[arg-type, return-value]
    with Publisher(redis_url) as blocking, pytest.raises(TypeError, match="AsyncPublisher"):
        blocking.track("forecasts")(do_nothing)


async def do_nothing() -> None:
    """Do nothing."""


async def test_outputs_that_are_no_json_do_not_turn_success_into_failure(publisher: AsyncPublisher, told: Told) -> None:
    async with publisher.track() as run:
        run.outputs["model"] = object
        run.outputs["kept"] = {"at": UUID(int=1)}

    output = await told.output(run.run_id)
    assert (await told.run(run.run_id)).status == "success"
    assert output["outputs"] == {"model": "<class 'object'>", "kept": {"at": str(UUID(int=1))}}
    assert "'model' was replaced by its repr" in output["stderr"]


def test_whatever_is_put_into_outputs_can_be_written() -> None:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    cyclic: dict[str, Any] = {}
    cyclic["self"] = cyclic

    class Bad:
        def __repr__(self) -> str:
            raise ValueError

    for value in (
        deep,
        cyclic,
        Bad(),
        {1: 2},
        "\ud800",
        2**80,
        b"\xff",
        {"a": Bad(), "b": deep},
        float("nan"),
        {(1, 2): 3},
    ):
        outputs, _ = writable(value)
        msgspec.json.encode(outputs)


async def test_an_output_over_the_limit_is_left_out_of_a_success(publisher: AsyncPublisher, told: Told) -> None:
    async with publisher.track() as run:
        run.stdout = "x" * (65 * 1024 * 1024)

    assert (await told.run(run.run_id)).status == "success"
    assert "left out" in (await told.output(run.run_id))["stderr"]


async def test_progress_returns_at_once_and_the_newest_is_told(publisher: AsyncPublisher, told: Told) -> None:
    async with publisher.track() as run:
        for step in range(100):
            run.progress(step / 100, "fitting")
        run.progress(7.0, "done")
        await asyncio.to_thread(run.progress, float("nan"), "saving")
        async with asyncio.timeout(5):
            while True:
                progress = (await told.run(run.run_id)).progress if await told.statuses(run.run_id) else None
                if progress is not None and progress.message == "saving":
                    break

    assert (await told.run(run.run_id)).status == "success"


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_store_that_is_away_stops_no_work_and_masks_no_error(
    blocking: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = PublisherConfig(timeout_s=0.1, spool_bytes=0)
    done: list[str] = []

    def work_blocking() -> None:
        publisher = Publisher(NOWHERE, "forecasts", config=config)
        with publisher.track() as run:
            run.progress(0.5)
            done.append(run.run_id)
        with pytest.raises(ZeroDivisionError), publisher.track():
            _ = 1 / 0
        publisher.close()

    if blocking:
        await asyncio.to_thread(work_blocking)
    else:
        async with AsyncPublisher(NOWHERE, "forecasts", config=config) as publisher:
            async with publisher.track() as run:
                run.progress(0.5)
                done.append(run.run_id)
            with pytest.raises(ZeroDivisionError):
                async with publisher.track():
                    _ = 1 / 0

    assert len(done) == 1
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) >= 4


async def test_publishing_with_neither_store_nor_spool_ends_within_bounds() -> None:
    async with AsyncPublisher(NOWHERE, "forecasts", config=PublisherConfig(timeout_s=0.2, spool_bytes=0)) as publisher:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await publisher.publish(run_id=str(uuid4()), status="running")
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"run_id": "6666"}, InvalidRunId),
        ({"status": "finished"}, InvalidRequest),
        ({"project_name": "no project!"}, InvalidRequest),
        ({"tags": ["x"] * 21}, InvalidRequest),
        ({"tags": "x"}, InvalidRequest),
        ({"at": "yesterday"}, InvalidRequest),
        ({"attempt": 0}, InvalidRequest),
        ({"progress": {"fraction": 2}}, InvalidRequest),
        ({"output": {"outputs": object()}}, InvalidRequest),
        ({"output": {"exit_code": "none"}}, InvalidRequest),
        ({"error_message": "x" * 300_000}, PayloadTooLarge),
        ({"colour": "red"}, TypeError),
    ],
)
async def test_what_breaks_a_rule_is_refused_before_anything_is_sent(
    fields: dict[str, Any], error: type[Exception]
) -> None:
    async with AsyncPublisher(NOWHERE, "forecasts") as publisher:
        with pytest.raises(error):
            await publisher.publish(**{"run_id": str(uuid4()), "status": "running", **fields})


async def test_tracking_that_breaks_a_rule_is_refused_before_the_work_begins() -> None:
    async with AsyncPublisher(NOWHERE) as publisher:
        with pytest.raises(InvalidRequest, match="project"):
            publisher.track()
        with pytest.raises(InvalidRunId):
            publisher.track("forecasts", run_id="6666")
        with pytest.raises(InvalidRequest):
            async with publisher.track("forecasts", tags=[""]):
                raise AssertionError("the work must not begin")


async def test_an_event_has_an_id_a_time_and_a_place(publisher: AsyncPublisher, told: Told) -> None:
    run_id = str(uuid4())

    event = await publisher.publish(run_id=run_id.upper(), status="running")

    assert event.run_id == run_id
    assert UUID(event.event_id)
    (item,) = await told.store.runs.history(parse_run_id(run_id)) or [await _first(told, run_id)]
    assert item.event_id == event.event_id
    assert abs(item.at_us / 1e6 - time.time()) < 10


async def _first(told: Told, run_id: str) -> Any:
    await told.projector.drain()
    return (await told.store.runs.history(RunId(run_id)))[0]


def test_one_publisher_is_used_from_one_loop_after_another(redis_url: str) -> None:
    publisher = AsyncPublisher(redis_url, "forecasts")
    ids = [str(uuid4()) for _ in range(2)]

    for run_id in ids:
        asyncio.run(_publish(publisher, run_id))

    async def look() -> None:
        async with RedisStore.open(redis_url) as store:
            for run_id in ids:
                assert (await Told(store).run(run_id)).status == "success"

    asyncio.run(look())


async def _publish(publisher: AsyncPublisher, run_id: str) -> None:
    await publisher.publish(run_id=run_id, status="success")


def test_a_forked_child_publishes_by_a_connection_of_its_own(redis_url: str) -> None:
    publisher = Publisher(redis_url, "forecasts")
    before, forked, after = (str(uuid4()) for _ in range(3))
    publisher.publish(before, "success")

    child = os.fork()
    if child == 0:
        code = 1
        try:
            publisher.publish(forked, "success")
            publisher.close()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    began = time.monotonic()
    publisher.publish(after, "success")
    assert time.monotonic() - began < 2, "the child took the parent's connection out of its loop"
    publisher.close()

    assert os.waitstatus_to_exitcode(status) == 0

    async def look() -> None:
        async with RedisStore.open(redis_url) as store:
            for run_id in (before, forked, after):
                assert (await Told(store).run(run_id)).status == "success"

    asyncio.run(look())


def test_address_and_project_come_from_the_environment(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="RUNSTORE_REDIS_URL"):
        Publisher()
    monkeypatch.setenv("RUNSTORE_REDIS_URL", redis_url)
    monkeypatch.setenv("RUNSTORE_PROJECT", "forecasts")

    with Publisher() as publisher, publisher.track() as run:
        assert run.project_name == "forecasts"
