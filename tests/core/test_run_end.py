"""When a run ended, in a listing's words."""

import msgspec
import pytest

from runstore.core.ids import RunId
from runstore.core.run import Run, end_ms
from runstore.core.status import Status

RECORDED_MS = 1_000


@pytest.mark.parametrize(
    ("finished_us", "end"),
    [(None, RECORDED_MS), (999_999, RECORDED_MS), (1_000_000, 1_000), (1_000_001, 1_001), (2_000_000, 2_000)],
)
def test_a_run_ends_at_the_full_millisecond_after_its_work_and_not_before_it_was_recorded(
    finished_us: int | None, end: int
) -> None:
    run = Run(
        run_id=RunId("66666666-6666-6666-6666-666666666666"),
        project_name="forecasts",
        status=Status.SUCCESS,
        created_ms=1,
        recorded_ms=RECORDED_MS,
    )

    assert end_ms(msgspec.structs.replace(run, finished_us=finished_us)) == end
