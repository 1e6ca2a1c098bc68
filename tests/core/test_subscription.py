"""Join, look, speak once."""

from hypothesis import given
from hypothesis import strategies as st

from runstore.core.ids import RunId
from runstore.core.subscription import WHOLE_COMMIT, Change, Subscription, Version

A, B = RunId("a" * 8), RunId("b" * 8)


def change(n: int, *, ends: bool = False, run_id: RunId = A, position: int = 0) -> Change[str]:
    return Change(run_id, Version(n, position), ends, f"{run_id[0]}{n}.{position}")


def snapshot(n: int, *, ends: bool = False) -> Change[str]:
    return change(n, ends=ends, position=WHOLE_COMMIT)


def one(*, every_change: bool = False) -> Subscription[str]:
    return Subscription(frozenset({A}), every_change=every_change)


def test_a_run_that_had_ended_is_spoken_of_at_the_look() -> None:
    subscription = one()

    assert subscription.look(A, snapshot(5, ends=True)) == [snapshot(5, ends=True)]
    assert subscription.done


def test_an_end_between_joining_and_looking_is_spoken_of_once() -> None:
    subscription = one()

    assert subscription.hear(change(6, ends=True)) == []
    assert len(subscription.look(A, snapshot(6, ends=True))) == 1
    assert subscription.hear(change(6, ends=True)) == []


def test_an_end_that_the_look_was_too_early_for_is_not_missed() -> None:
    subscription = one()
    subscription.hear(change(6, ends=True))

    assert subscription.look(A, snapshot(5)) == [change(6, ends=True)]


def test_an_unknown_run_is_spoken_of_when_it_comes() -> None:
    subscription = one()

    assert subscription.look(A, None) == []
    assert subscription.open_runs == {A}
    assert subscription.hear(change(1, ends=True)) == [change(1, ends=True)]


def test_only_ends_are_spoken_unless_every_change_was_asked_for() -> None:
    quiet, loud = one(), one(every_change=True)
    for subscription in (quiet, loud):
        subscription.look(A, None)

    assert quiet.hear(change(1)) == []
    assert loud.hear(change(1)) == [change(1)]


def test_several_changes_of_one_commit_are_each_spoken() -> None:
    subscription = one(every_change=True)
    subscription.look(A, None)

    spoken = [*subscription.hear(change(1, position=0)), *subscription.hear(change(1, position=1))]

    assert len(spoken) == 2


def test_a_looked_up_run_has_seen_its_whole_commit() -> None:
    subscription = one(every_change=True)
    subscription.hear(change(1, position=0))
    subscription.hear(change(1, position=1))

    assert subscription.look(A, snapshot(1)) == [snapshot(1)]


def test_changes_read_back_from_the_feed_come_before_the_look() -> None:
    subscription = one(every_change=True)
    subscription.hear(change(3))

    assert subscription.replay(change(2)) == [change(2)]
    assert subscription.look(A, snapshot(3)) == [snapshot(3)]


def test_it_is_done_when_the_last_run_has_ended() -> None:
    subscription: Subscription[str] = Subscription(frozenset({A, B}), every_change=False)
    subscription.look(A, snapshot(1, ends=True))
    assert not subscription.done

    subscription.look(B, None)
    subscription.hear(change(1, ends=True, run_id=B))

    assert subscription.done
    assert subscription.hear(change(2, ends=True, run_id=B)) == []


def test_after_a_rollback_versions_begin_anew() -> None:
    subscription = one(every_change=True)
    subscription.look(A, snapshot(9))

    subscription.forget(A)

    assert subscription.hear(change(1)) == []
    assert subscription.look(A, snapshot(1)) == [snapshot(1)]


def test_a_run_already_spoken_of_as_ended_is_not_looked_at_again() -> None:
    subscription = one()
    subscription.look(A, snapshot(9, ends=True))

    subscription.forget(A)

    assert subscription.look(A, snapshot(1, ends=True)) == []


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8), st.booleans())
def test_whatever_the_moment_of_joining_and_looking_the_end_is_spoken_exactly_once(
    last: int, joined: int, looked: int, every_change: bool
) -> None:
    story = [change(n, ends=n == last) for n in range(last + 1)]
    joined = min(joined, last + 1)
    looked = max(joined, min(looked, last + 1))
    subscription = one(every_change=every_change)

    spoken = [said for one_change in story[joined:looked] for said in subscription.hear(one_change)]
    seen = looked - 1
    spoken += subscription.look(A, snapshot(seen, ends=seen == last) if looked else None)
    spoken += [said for one_change in story[looked:] for said in subscription.hear(one_change)]

    assert [said.is_terminal for said in spoken].count(True) == 1
    assert [said.version for said in spoken] == sorted(said.version for said in spoken)
    assert subscription.done
