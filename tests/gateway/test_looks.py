"""Looks that are shared: few of them, however many want one."""

import asyncio
import time

import pytest

from runstore.gateway.looks import Looks


async def test_all_who_want_to_know_what_is_so_from_now_on_share_one_look() -> None:
    count = 0

    async def look() -> None:
        nonlocal count
        count += 1

    looks = Looks(look)
    await looks.look()

    async def ask(turns: int) -> None:
        now = time.monotonic()
        for _ in range(turns):  # so that they wake one after the other
            await asyncio.sleep(0)
        await looks.look_after(now)

    await asyncio.gather(*(ask(number) for number in range(100)))

    assert count == 2


async def test_a_look_that_was_under_way_before_is_not_enough() -> None:
    began, go_on, count = asyncio.Event(), asyncio.Event(), 0

    async def look() -> None:
        nonlocal count
        count += 1
        began.set()
        await go_on.wait()

    looks = Looks(look)
    first = asyncio.create_task(looks.look())
    await began.wait()
    asked = asyncio.create_task(looks.look_after(time.monotonic()))
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, asked)

    assert count == 2


async def test_what_a_look_raises_is_raised_to_all_and_the_next_one_may_succeed() -> None:
    answers = iter([OSError("away"), None])

    async def look() -> None:
        if (answer := next(answers)) is not None:
            raise answer

    looks = Looks(look)
    now = time.monotonic()

    told = await asyncio.gather(*(looks.look_after(now) for _ in range(3)), return_exceptions=True)

    assert [type(one) for one in told] == [OSError] * 3
    await looks.look_after(now)
    with pytest.raises(StopIteration):
        next(answers)


async def test_whenever_a_look_is_asked_for_it_is_had_and_the_loop_goes_on() -> None:
    """At each turn around a look's end, so also between that and when it is told to those who wait."""
    count = 0

    async def look() -> None:
        nonlocal count
        count += 1
        await asyncio.sleep(0)

    looks = Looks(look)
    began_at = time.monotonic()

    async def ask(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        now = time.monotonic()
        await looks.look_after(now)
        assert looks.age_s <= time.monotonic() - now

    for _ in range(3):
        await asyncio.gather(*map(ask, range(20)))

    assert count <= 1 + (time.monotonic() - began_at) / 0.2
