"""A short chaos run: everything goes wrong at random for some seconds, and no promise is broken."""

from pathlib import Path

import pytest

from tests.chaos.plan import USUAL
from tests.chaos.runner import run_chaos
from tests.chaos.site import Shape


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_whatever_goes_wrong_nothing_acknowledged_is_lost_and_nobody_is_contradicted(tmp_path: Path) -> None:
    shape = Shape(seed=8, subscribers=120)

    ran = await run_chaos(tmp_path / "site", shape, seconds=14, kinds=USUAL)

    print("\n".join([f"{number} × {what}" for what, number in ran.injected.items()] + ran.report.lines()))
    assert ran.report.violations == []
    assert sum(ran.injected.values()) > 5
    assert ran.report.counts["events acknowledged"] > 100
