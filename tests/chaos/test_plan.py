"""A plan is the same each time for a seed, and lets nothing be hurt twice at a time."""

from itertools import pairwise

import pytest

from tests.chaos.plan import Kind, make_plan

ROLES = {kind: ["redis", "gateway-0", "gateway-1", "projector-0"] for kind in Kind}


def test_a_seed_gives_the_same_plan_again() -> None:
    assert make_plan(7, 60, Kind, ROLES) == make_plan(7, 60, list(Kind)[::-1], ROLES)
    assert make_plan(7, 60, Kind, ROLES) != make_plan(8, 60, Kind, ROLES)


@pytest.mark.parametrize("seed", range(20))
def test_no_role_has_two_faults_at_a_time_and_all_are_over_in_time(seed: int) -> None:
    plan = make_plan(seed, 60, Kind, ROLES)

    assert len(plan) > 20
    for role in ROLES[Kind.KILL]:
        mine = [fault for fault in plan if fault.role == role]
        assert all(one.at_s + one.for_s < other.at_s for one, other in pairwise(mine))
    assert all(fault.at_s + fault.for_s <= 60.001 for fault in plan)


def test_what_can_befall_nobody_is_left_out() -> None:
    plan = make_plan(1, 60, Kind, {Kind.KILL: ["redis"], Kind.POWER: []})

    assert {fault.kind for fault in plan} == {Kind.KILL}


def test_no_kinds_give_no_faults() -> None:
    assert make_plan(1, 60, [], ROLES) == []
