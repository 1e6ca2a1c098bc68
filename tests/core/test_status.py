"""The table of transitions."""

from runstore.core.status import TERMINAL, TRANSITIONS, Status, draw


def test_terminal_statuses_are_those_that_nothing_follows() -> None:
    assert {"success", "failed", "timed_out", "cancelled"} == TERMINAL


def test_every_status_has_a_row_in_the_table() -> None:
    assert set(TRANSITIONS) == {None, *Status}


def test_no_transition_leads_back_to_an_earlier_status() -> None:
    order = list(Status)

    assert all(order.index(after) > order.index(before) for before in Status for after in TRANSITIONS[before])


def test_the_drawn_diagram_has_an_arrow_for_every_transition_and_no_other() -> None:
    arrows = {line.strip() for line in draw().splitlines()[1:]}
    expected = {
        f"{before.value if before else '[*]'} --> {after.value}"
        for before in TRANSITIONS
        for after in TRANSITIONS[before]
    }

    assert arrows == expected | {f"{status.value} --> [*]" for status in TERMINAL} | {
        "running --> running: higher attempt"
    }
