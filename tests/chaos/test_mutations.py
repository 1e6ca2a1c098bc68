"""Defects put into the real projector and gateway are found by a short run; without them it finds nothing."""

from pathlib import Path

import pytest

from tests.chaos import heard, stored
from tests.chaos.plan import Fault, Kind
from tests.chaos.runner import Ran, run_chaos
from tests.chaos.site import Shape

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

QUIET: list[Fault] = []
FROZEN = [
    Fault(at_s=0.5 + 4.5 * place, kind=Kind.FREEZE, role=f"projector-{place}", for_s=3.5, amount=0.0)
    for place in (0, 1)
]
"""Each projector sleeps until its partitions are another's, and wakes."""


async def ran(folder: Path, role: str, mutation: str, plan: list[Fault], seconds: float) -> Ran:
    shape = Shape(
        seed=5,
        fsync="everysec",
        gateways=1,
        publishers=1,
        workers=0,
        subscribers=40,
        rate=300,
        patience_s=5,
        mutations={role: mutation},
    )
    return await run_chaos(folder, shape, seconds=seconds, kinds=[], plan=plan)


@pytest.mark.parametrize(
    ("role", "mutation", "plan", "seconds", "rules"),
    [
        ("projector", "apply-twice", QUIET, 3, {stored.FOLD}),
        ("projector", "push-before-commit", QUIET, 3, {heard.READABLE}),
        ("gateway", "look-before-join", QUIET, 4, {heard.HEARD}),
        ("gateway", "drop-on-a-full-outbox", QUIET, 4, {heard.HEARD}),
        ("projector", "skip-the-cursor-check", FROZEN, 9, {stored.FOLD}),
        ("projector", "trust-a-stale-lease", FROZEN, 9, {stored.FOLD}),
    ],
)
async def test_a_defect_is_found(
    tmp_path: Path, role: str, mutation: str, plan: list[Fault], seconds: float, rules: set[str]
) -> None:
    done = await ran(tmp_path / "site", role, mutation, plan, seconds)

    print("\n".join(done.report.lines()))
    assert rules <= done.report.rules_broken


@pytest.mark.parametrize(("mutation", "plan", "seconds"), [("sound", FROZEN, 9), ("small-outbox", QUIET, 4)])
async def test_nothing_is_found_where_there_is_no_defect(
    tmp_path: Path, mutation: str, plan: list[Fault], seconds: float
) -> None:
    done = await ran(tmp_path / "site", "gateway", mutation, plan, seconds)

    assert done.report.violations == []
