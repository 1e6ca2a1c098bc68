"""State machines: in whatever order things are done, a subscription speaks once, a lease has one holder, a spool keeps.

Hypothesis chooses the steps, and shrinks those that go wrong.
"""

import asyncio
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runstore.adapters.dispatch import RedisDispatch, Released, Standing
from runstore.adapters.reaping import Due, RedisReaping
from runstore.core.ids import RunId, from_bytes, to_bytes
from runstore.core.subscription import WHOLE_COMMIT, Change, Subscription, Version
from runstore.publish.spool import Spool, SpoolFailed
from tests.projector.builders import run_id_of
from tests.simulation.direct import Direct
from tests.simulation.network import Command, execute, open_store
from tests.simulation.server import Server

RUNS = [run_id_of(number) for number in range(3)]
PROJECT = "forecasts"


class Speaking(RuleBasedStateMachine):
    """A store that commits, a feed that lags behind it, and look-ups at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.subscription: Subscription[int] = Subscription(frozenset(RUNS), every_change=True)
        self.changes: dict[RunId, list[Change[int]]] = {run_id: [] for run_id in RUNS}
        self.under_way: list[Change[int]] = []
        self.looked: dict[RunId, int] = {}
        self.spoken: dict[RunId, list[Change[int]]] = {run_id: [] for run_id in RUNS}
        self.n = 0

    @rule(run_id=st.sampled_from(RUNS), ends=st.booleans())
    def commit(self, run_id: RunId, ends: bool) -> None:
        if self.changes[run_id] and self.changes[run_id][-1].is_terminal:
            return
        self.n += 1
        change = Change(run_id, Version(self.n), ends, self.n)
        self.changes[run_id].append(change)
        self.under_way.append(change)

    @precondition(lambda self: self.under_way)
    @rule()
    def hear(self) -> None:
        self._take(self.subscription.hear(self.under_way.pop(0)))

    @rule(run_id=st.sampled_from(RUNS))
    def look(self, run_id: RunId) -> None:
        if run_id in self.looked:
            return
        last = self.changes[run_id][-1] if self.changes[run_id] else None
        self.looked[run_id] = last.version.n if last else 0
        seen = last._replace(version=Version(last.version.n, WHOLE_COMMIT)) if last else None
        self._take(self.subscription.look(run_id, seen))

    def _take(self, changes: list[Change[int]]) -> None:
        for change in changes:
            self.spoken[change.run_id].append(change)

    @invariant()
    def each_is_spoken_once_in_order_and_nothing_after_the_end(self) -> None:
        for spoken in self.spoken.values():
            numbers = [change.payload for change in spoken]
            assert numbers == sorted(set(numbers))
            assert not any(change.is_terminal for change in spoken[:-1])

    def teardown(self) -> None:
        for run_id in RUNS:
            self.look(run_id)
        while self.under_way:
            self.hear()
        for run_id, changes in self.changes.items():
            told = [change.payload for change in self.spoken[run_id]]
            assert told == [change.payload for change in changes if change.version.n >= self.looked[run_id]]
        ended = all(changes and changes[-1].is_terminal for changes in self.changes.values())
        assert self.subscription.done is ended


class Clocked(Direct):
    """A server whose clock is set by hand."""

    now_ms = 1_700_000_000_000

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.server = server

    async def call(self, commands: list[Command]) -> list[Any]:  # type: ignore[override]
        self.server.now_ms = self.now_ms
        return [execute(self.server, args, options) for args, options in commands]


class Leasing(RuleBasedStateMachine):
    """Workers that claim, begin, say that they live, give back or fall silent; reapers that look, and act later."""

    tokens: Bundle[tuple[RunId, str]] = Bundle("tokens")
    sights: Bundle[tuple[Due, ...]] = Bundle("sights")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self._open())
        self.asked: set[RunId] = set()
        self.ended: set[RunId] = set()
        self.holders: dict[RunId, tuple[str, int]] = {}

    async def _open(self) -> None:
        self.clock = Clocked(Server())
        store = open_store(self.clock, 1)
        self.keys = store.meta.keys[0]
        self.dispatch, self.reaping = RedisDispatch(store), RedisReaping(store)

    def _do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def _held(self, run_id: RunId, token: str) -> bool:
        return self.holders.get(run_id, ("", 0))[0] == token

    @rule(run_id=st.sampled_from(RUNS))
    def ask(self, run_id: RunId) -> None:
        if run_id not in self.asked:
            self.asked.add(run_id)
            packed = to_bytes(run_id)
            self.clock.server.execute(["ZADD", self.keys.queue(PROJECT), 1, packed])
            self.clock.server.execute(["SET", self.keys.request(packed), b"{}"])

    @rule(target=tokens, attempts=st.integers(1, 3))
    def claim(self, attempts: int) -> Any:
        terms = {"worker": "w", "attempts": attempts, "lease_ms": 100, "deadline_ms": 10_000}
        row = self._do(self.dispatch.claim(0, PROJECT, **terms))
        if row is None:
            return multiple()
        assert row.run_id not in self.holders
        self.holders[row.run_id] = row.token, self.clock.now_ms + 100
        return row.run_id, row.token

    @rule(held=tokens)
    def begin(self, held: tuple[RunId, str]) -> None:
        standing = self._do(self.dispatch.begin(*held, lease_ms=100, deadline_ms=10_000))
        self._renewed(held, standing)

    @rule(held=tokens)
    def heartbeat(self, held: tuple[RunId, str]) -> None:
        self._renewed(held, self._do(self.dispatch.heartbeat(*held, lease_ms=100)))

    def _renewed(self, held: tuple[RunId, str], standing: Standing) -> None:
        assert (standing is Standing.HELD) is self._held(*held)
        if standing is Standing.HELD:
            self.holders[held[0]] = held[1], self.clock.now_ms + 100

    @rule(held=tokens)
    def release(self, held: tuple[RunId, str]) -> None:
        released = self._do(self.dispatch.release(*held, PROJECT))
        assert (released is not Released.LOST) is self._held(*held)
        if released is Released.REQUEUED:
            del self.holders[held[0]]

    @rule(ms=st.sampled_from((60, 101, 102)))
    def pass_time(self, ms: int) -> None:
        self.clock.now_ms += ms

    @rule(target=sights)
    def look(self) -> Any:
        sight = self._do(self.reaping.look(self.clock.now_ms))
        assert {due.run_id for due in sight.leases} == {
            run_id for run_id, (_, until) in self.holders.items() if until <= self.clock.now_ms
        }
        return tuple(sight.leases) if sight.leases else multiple()

    @rule(seen=sights, retries=st.booleans())
    def act(self, seen: tuple[Due, ...], retries: bool) -> None:
        for due in seen:
            token, until = self.holders.get(due.run_id, ("", 0))
            deed = self.reaping.retry(due) if retries else self.reaping.end_lease(due, b"{}")
            if self._do(deed):
                # a reaper that was frozen between look and deed harms nobody
                assert token == due.token
                assert until <= self.clock.now_ms
                del self.holders[due.run_id]
                if not retries:
                    self.ended.add(due.run_id)

    @invariant()
    def each_run_is_in_one_place(self) -> None:
        queued = {from_bytes(packed) for packed in self.clock.server.keys.get(self.keys.queue(PROJECT), {})}
        leased = {from_bytes(packed) for packed in self.clock.server.keys.get(self.keys.leases, {})}
        assert leased == set(self.holders)
        assert queued | leased | self.ended == self.asked
        assert len(queued) + len(leased) + len(self.ended) == len(self.asked)

    def teardown(self) -> None:
        self.loop.close()


class Spooling(RuleBasedStateMachine):
    """Events that are kept, sent, refused; and processes that end or are killed and leave the rest to the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(prefix="runstore-spool-"))
        self.spool = Spool(self.folder, "a store", 4000)
        self.kept: list[bytes] = []
        self.sent: list[bytes] = []
        self.number = 0

    @rule(runs=st.lists(st.sampled_from(RUNS), min_size=1, max_size=4), size=st.sampled_from((0, 300)))
    def append(self, runs: list[RunId], size: int) -> None:
        events = []
        for run_id in runs:
            self.number += 1
            events.append(f"{run_id}:{self.number}:".encode() + b"x" * size)
        try:
            self.spool.append(events)
        except SpoolFailed:
            return
        self.kept += events

    @rule(most=st.integers(1, 5), refuses=st.sets(st.sampled_from(RUNS)))
    def send(self, most: int, refuses: set[RunId]) -> None:
        if self.spool.is_empty:
            return
        batch = self.spool.read(most, 1000)
        refused = refuses | self.spool.aside
        left = {number: run for number, event in enumerate(batch.events) if (run := _run_of(event)) in refused}
        self.sent += [event for number, event in enumerate(batch.events) if number not in left]
        self.spool.advance(batch, left)

    @rule(is_killed=st.booleans())
    def end(self, is_killed: bool) -> None:
        if is_killed:
            self.spool.disown()
        else:
            self.spool.close()
        found = [adopted for path in sorted(self.folder.glob("*")) if (adopted := Spool.adopt(path)) is not None]
        assert len(found) <= 1
        self.spool = found[0] if found else Spool(self.folder, "a store", 4000)
        self.spool._most_bytes = 4000

    @invariant()
    def what_waits_and_what_was_sent_is_what_was_kept(self) -> None:
        assert self.spool.is_empty is False or set(self.sent) >= set(self.kept)

    def teardown(self) -> None:
        self.end(True)
        while not self.spool.is_empty:
            self.send(5, set())
        assert set(self.sent) == set(self.kept)
        firsts = list(dict.fromkeys(self.sent))
        for run_id in RUNS:
            # each run's events go in the order in which they were kept, a repeat aside
            assert [e for e in firsts if _run_of(e) == run_id] == [e for e in self.kept if _run_of(e) == run_id]
        rmtree(self.folder)


def _run_of(event: bytes) -> RunId:
    return RunId(event.split(b":")[0].decode())


@pytest.mark.parametrize("machine", [Speaking, Leasing, Spooling])
def test_whatever_is_done_in_whatever_order(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", [Speaking, Leasing, Spooling])
def test_whatever_is_done_in_many_orders(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=1000, stateful_step_count=60, deadline=None))
