"""Numbers of several processes: put together as the table says, and none of them left out in silence."""

import os
from collections.abc import Callable, Iterator

import pytest

from runstore.core.errors import StoreUnavailable
from runstore.core.tally import Tally
from runstore.metrics import Board, Numbers, Sample
from runstore.metrics.board import SEAT_BYTES, Unreadable
from runstore.metrics.samples import pack, put_together, unpack


def tally(*values: float) -> Tally:
    made = Tally((0.1, 1.0))
    for value in values:
        made.observe(value)
    return made


def telling(*samples: Sample) -> Callable[[], Iterator[Sample]]:
    return lambda: iter(samples)


def test_a_tally_counts_each_value_below_its_bound() -> None:
    made = tally(0.05, 0.1, 0.5, 7)

    assert (made.counts, made.total) == ([2, 1, 1], 7.65)


def test_counters_are_summed_and_of_a_lag_the_largest_is_told() -> None:
    told = put_together(
        [
            Sample("runstore_commits_total", 3),
            Sample("runstore_commits_total", 4),
            Sample("runstore_projector_lag_seconds", 0.5),
            Sample("runstore_projector_lag_seconds", 7.5),
            Sample("runstore_ready", 1),
            Sample("runstore_ready", 0),
        ]
    )

    assert told == {
        ("runstore_commits_total", ()): 7,
        ("runstore_projector_lag_seconds", ()): 7.5,
        ("runstore_ready", ()): 0,
    }


def test_what_is_packed_for_another_process_is_what_it_reads() -> None:
    delay = Tally((0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0))
    delay.observe(0.004)
    samples = [Sample("runstore_sockets", 4.0), Sample("runstore_push_delay_seconds", delay)]

    first, second = unpack(pack(samples))

    assert first == samples[0]
    assert isinstance(second.value, Tally)
    assert (second.value.counts, second.value.total) == (delay.counts, delay.total)


def test_a_board_holds_what_each_process_wrote_last() -> None:
    board = Board(2)
    board.write(0, b"mine")
    child = os.fork()
    if child == 0:
        board.write(1, b"an earlier word")
        board.write(1, b"theirs")
        os._exit(0)
    os.waitpid(child, 0)

    assert (board.read(0), board.read(1)) == (b"mine", b"theirs")
    with pytest.raises(ValueError, match="do not fit"):
        board.write(0, bytes(SEAT_BYTES))


async def test_a_process_that_has_told_nothing_is_not_left_out_in_silence() -> None:
    numbers = Numbers(Board(2), 0)
    numbers.add(telling(Sample("runstore_commits_total", 3)))

    with pytest.raises(Unreadable, match="process 1"):
        await numbers.expose()


async def test_whichever_process_is_asked_tells_the_numbers_of_all() -> None:
    board = Board(2)
    both = [Numbers(board, 0), Numbers(board, 1)]
    for place, numbers in enumerate(both):
        numbers.add(telling(Sample("runstore_commits_total", 3 + place)))
        await numbers.start()

    answers = [(await numbers.expose())[0] for numbers in both]

    for numbers in both:
        await numbers.stop()
    assert all(b"runstore_commits_total 7.0\n" in answer for answer in answers)


async def test_what_the_store_does_not_answer_is_left_out_and_the_rest_is_told() -> None:
    numbers = Numbers()
    asked: list[str] = []

    async def away() -> list[Sample]:
        asked.append("store")
        if len(asked) > 1:
            raise StoreUnavailable("it is away")
        return [Sample("runstore_dead_letters", 2)]

    numbers.add(telling(Sample("runstore_commits_total", 3)))
    numbers.add_look(away)
    first, _ = await numbers.expose()
    numbers._seen_at_s = float("-inf")
    then, _ = await numbers.expose()

    assert b"runstore_dead_letters 2.0" in first
    assert b"runstore_dead_letters" not in then
    assert b"runstore_commits_total 3.0" in then


async def test_the_store_is_not_asked_anew_by_each_of_many_who_ask() -> None:
    numbers = Numbers()
    asked: list[str] = []

    async def look() -> list[Sample]:
        asked.append("store")
        return []

    numbers.add_look(look)
    for _ in range(5):
        await numbers.expose()

    assert len(asked) == 1
