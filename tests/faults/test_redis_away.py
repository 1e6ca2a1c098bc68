"""Redis away and back, the same or another, under real processes: everybody is told, nothing is restarted by hand."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest

from runstore import AsyncPublisher, PublisherConfig
from tests.cli.processes import PATIENT
from tests.faults.site import Site, site
from tests.waiting import happens

pytestmark = [pytest.mark.slow, PATIENT]
CONFIG = PublisherConfig(patience_s=1.0, max_backoff_s=0.2)
NOTICED_S = 15.0


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path) as made:
        made.start("projector")
        made.start_gateway()
        yield made


@pytest.fixture
async def publisher(running: Site) -> AsyncIterator[AsyncPublisher]:
    async with AsyncPublisher(running.lives.url, "mine", config=CONFIG) as opened:
        yield opened


async def until_answered(running: Site, path: str, status: int, within_s: float = 45) -> None:
    async def is_it() -> bool:
        return (await running.ask(path))[0] == status

    await happens(is_it, within_s)


@pytest.mark.parametrize("how", ["frozen", "stopped", "killed"])
async def test_while_redis_is_away_look_ups_are_503_and_what_was_missed_is_told_when_it_is_back(
    running: Site, publisher: AsyncPublisher, how: str
) -> None:
    lives, run_id, other = running.lives, str(uuid4()), str(uuid4())
    await publisher.publish(run_id, "running")
    async with running.socket() as socket:
        await socket.subscribe("a", run_ids=[run_id])
        await socket.subscribe("p", project_name="mine")

        began = monotonic()
        {"frozen": lambda: lives.send(signal.SIGSTOP), "stopped": lives.stop, "killed": lives.die}[how]()
        status, problem, headers = await running.ask(f"/v1/runs/{run_id}")
        assert (status, problem["code"]) == (503, "store_unavailable")
        assert int(headers["Retry-After"]) >= 1
        await until_answered(running, "/readyz", 503)
        assert monotonic() - began < NOTICED_S + 10  # of a machine that is busy with other things
        assert (await publisher.publish(run_id, "success")).cursor is None
        assert (await publisher.publish(other, "failed", error_message="no")).cursor is None

        lives.send(signal.SIGCONT) if how == "frozen" else lives.start()

        heard = {(told["id"], told["run"]["run_id"]) for told in [await socket.hear("run") for _ in range(3)]}
        assert heard == {("a", run_id), ("p", run_id), ("p", other)}
        await until_answered(running, "/readyz", 200)
        assert (await running.ask(f"/v1/runs/{other}"))[1]["status"] == "failed"
    assert running.all_live


@pytest.mark.parametrize("life", ["older", "empty"])
async def test_another_life_of_redis_is_told_with_reset_and_nothing_is_answered_from_before(
    running: Site, life: str
) -> None:
    kept, lost, open_still, later = (str(uuid4()) for _ in range(4))
    async with AsyncPublisher(running.lives.url, "mine", config=CONFIG) as stranger:
        await stranger.publish(kept, "success")
        await stranger.publish(open_still, "running")
        await until_answered(running, f"/v1/runs/{kept}", 200)
        await until_answered(running, f"/v1/runs/{open_still}", 200)
        running.lives.remember()
        published = await stranger.publish(lost, "success")
    await until_answered(running, f"/v1/runs/{lost}", 200)  # and kept in the gateway's memory
    async with running.socket() as socket:
        await socket.subscribe("p", project_name="mine")
        await socket.subscribe("a", run_ids=[open_still])

        await running.lives.come_back_as(life)
        # the partition of a run that was rolled back in nothing has nothing to reset
        resets = {(await socket.hear("reset"))["id"] for _ in range(1 if life == "older" else 2)}

        assert resets == ({"p"} if life == "older" else {"a", "p"})
        assert (await running.ask(f"/v1/runs/{lost}"))[0] == 404
        status, problem, _ = await running.ask(f"/v1/runs/{lost}?after={published.cursor}")
        assert (status, problem["code"]) == (410, "cursor_lost")
        assert (await running.ask(f"/v1/runs/{kept}"))[0] == (200 if life == "older" else 404)
        async with AsyncPublisher(running.lives.url, "mine", config=CONFIG) as stranger:
            await stranger.publish(later, "success")
            await stranger.publish(open_still, "failed", error_message="no")
        ids = {(await socket.hear("run"))["run"]["run_id"] for _ in range(3)}
        assert ids == {later, open_still}
    assert running.all_live


@pytest.mark.parametrize("life", ["older", "empty"])
async def test_a_worker_takes_runs_of_another_life_of_redis_without_being_restarted(running: Site, life: str) -> None:
    running.let_runs_end()
    running.start("worker", "--concurrency", "1")
    status, first, _ = await running.ask("/v1/runs", {"project_name": "mine", "mode": "sync"})
    assert (status, first["status"]) == (200, "success")
    running.lives.remember()

    await running.lives.come_back_as(life)

    async def is_taken() -> bool:
        return (await running.ask("/v1/runs", {"project_name": "mine", "mode": "sync"}))[0] == 200

    began = monotonic()
    await happens(is_taken, 60)
    assert monotonic() - began < 30
    assert running.all_live


async def test_a_redis_that_is_emptied_while_it_runs_is_told_too(running: Site, publisher: AsyncPublisher) -> None:
    run_id = str(uuid4())
    await publisher.publish(run_id, "success")
    await until_answered(running, f"/v1/runs/{run_id}", 200)
    async with running.socket() as socket:
        await socket.subscribe("p", project_name="mine")

        import redis

        client = redis.Redis.from_url(running.lives.url)
        await asyncio.to_thread(client.flushall)
        client.close()
        await running.lives.let_in()

        await socket.hear("reset")
        # the publisher that is still there knows its latest events
        assert (await socket.hear("run"))["run"]["run_id"] == run_id
