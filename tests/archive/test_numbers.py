"""What real processes count of the archive: runs that moved, look-ups of them, and an object store that fails."""

import asyncio
from pathlib import Path

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from tests.cli.processes import PATIENT, run, started, until
from tests.metrics.scrape import Read, fetched, number, parsed
from tests.projector.builders import run_id_of, tell

pytestmark = PATIENT
SETTINGS = '[archive]\nurl = "{}"\nretention_s = 0\nyoungest_s = 0\nevery_s = 0.05\n'


async def _end_some(url: str, run_ids: list[RunId]) -> None:
    async with RedisStore.open(url) as store:
        for run_id in run_ids:
            await tell(store, run_id, "success")


def test_what_moves_what_is_looked_up_and_what_fails_is_counted(tmp_path: Path, redis_url: str) -> None:
    at, attic = ("--redis-url", redis_url), tmp_path / "attic"
    (tmp_path / "runstore.toml").write_text(SETTINGS.format(attic))
    token = run("token", "create", "--name", "all", "--scope", "admin", *at, folder=tmp_path).stdout.strip()
    first, second = [run_id_of(1), run_id_of(2), run_id_of(3)], [run_id_of(4)]
    asyncio.run(_end_some(redis_url, first))
    with (
        started("projector", "--metrics-port", "0", *at, folder=tmp_path) as projector,
        started("gateway", "--port", "0", *at, folder=tmp_path) as gateway,
    ):

        def of_projector() -> Read:
            return parsed(fetched(projector.said["metrics_url"]))

        def lookups(outcome: str) -> float:
            read = parsed(fetched(f"{gateway.url}/metrics"))
            return number(read, "runstore_lookups_total", source="archive", outcome=outcome)

        assert until(lambda: number(of_projector(), "runstore_archived_runs_total", outcome="moved") == 3)
        well = of_projector()
        assert gateway.ask(f"/v1/runs/{first[0]}", token=token)[0] == 200
        assert gateway.ask(f"/v1/runs/{run_id_of(99)}", token=token)[0] == 404
        found = lookups("found"), lookups("absent"), lookups("failed")

        attic.rename(tmp_path / "away")
        attic.write_text("no folder")
        asyncio.run(_end_some(redis_url, second))
        assert until(lambda: number(of_projector(), "runstore_archived_runs_total", outcome="failed") >= 1)
        assert until(lambda: number(of_projector(), "runstore_archiver_idle_seconds") > 1)
        ill = of_projector()
        lost = gateway.ask(f"/v1/runs/{first[1]}", token=token)[0]
        failed = lookups("failed")

        attic.unlink()
        (tmp_path / "away").rename(attic)
        assert until(lambda: number(of_projector(), "runstore_archived_runs_total", outcome="moved") == 4)
        assert until(lambda: number(of_projector(), "runstore_archiver_idle_seconds") < 1)

    assert found == (1, 1, 0)
    assert (lost, failed) == (503, 1)
    assert number(well, "runstore_archived_runs_total", outcome="failed") == 0
    assert number(well, "runstore_archive_failures_total") == number(well, "runstore_archiver_failed_turns_total") == 0
    assert number(well, "runstore_archive_requests_total") >= 6
    assert number(ill, "runstore_archive_failures_total") >= 1
