"""Waits: which runs are awaited, and how the many become few subscriptions. Pure: nothing here touches the network.

A subscription can neither grow nor shrink, and a connection has a hundred of them. So the runs that are asked for at
one moment share one; when there are too many small ones, the smallest are asked for again as one. No cursor is
needed for that, and none after a lost connection: a run that has ended is pushed right after `subscribed`, and a
terminal status never changes, so that asking again loses nothing and a repeat is harmless.
"""

import itertools
from collections.abc import Iterator
from typing import Final

from runstore.client.messages import subscribe_runs, unsubscribe
from runstore.wire.messages import MAX_RUN_IDS

MERGE_ABOVE: Final = 32
"""So many subscriptions for waits, and the smaller half of them is asked for again as one."""


class Group:
    """One subscription. `wanted` are its runs that somebody awaits; `dropped`: nobody awaits some of the others."""

    def __init__(self, run_ids: list[str]) -> None:
        self.wanted = dict.fromkeys(run_ids)
        self.dropped = False


class Waits:
    """The runs that are awaited, each in at most one subscription. `names` gives a new name for each of these."""

    def __init__(self, names: Iterator[str]) -> None:
        self._names = names
        self._new: dict[str, None] = {}
        self._put_off: dict[str, None] = {}
        self._halves: list[list[str]] = []
        self._groups: dict[str, Group] = {}
        self._group_of: dict[str, str] = {}
        self._over: list[str] = []

    def has(self, name: str) -> bool:
        """Whether a subscription is one of these, and not over."""
        return name in self._groups

    def want(self, run_id: str) -> None:
        """Await a run."""
        if run_id not in self._group_of and run_id not in self._put_off:
            self._new[run_id] = None

    def drop(self, run_id: str) -> None:
        """Await a run no longer."""
        self._leave(run_id, heard=False)

    def ended(self, run_id: str) -> None:
        """Take note that the gateway told a run's end."""
        self._leave(run_id, heard=True)

    def done(self, name: str) -> None:
        """Take note that a subscription is over. What it left unsaid, if anything, is asked for anew."""
        self._dissolve(name)

    def renew(self, name: str) -> None:
        """Ask for a subscription's runs anew, and end it."""
        if name in self._groups:
            self._dissolve(name)
            self._over.append(name)

    def refused(self, name: str) -> str | None:
        """Take note of an error about a subscription: return the run that it is about where there is one only.

        Else halve the subscription, so that one bad run does not spoil the others.
        """
        run_ids = self._dissolve(name)
        if len(run_ids) > 1:
            middle = len(run_ids) // 2
            self._halves += [run_ids[:middle], run_ids[middle:]]
            return None
        return run_ids[0] if run_ids else None

    def put_off(self, name: str) -> None:
        """Take note that a subscription cannot stand now; its runs wait for `retry`."""
        for run_id in self._dissolve(name):
            del self._new[run_id]
            self._put_off[run_id] = None

    def retry(self) -> None:
        """Ask again for what was put off."""
        self._new.update(self._put_off)
        self._put_off.clear()

    def disconnected(self) -> None:
        """Take note that the connection is gone, and all subscriptions with it."""
        for name in list(self._groups):
            self._dissolve(name)
        self._over.clear()
        self.retry()

    def commands(self, room: int) -> list[bytes]:
        """Return what is to be sent now, so that there are at most `room` subscriptions; empty while idle.

        Runs for which there is no room stay behind until there is.
        """
        if self._new and len(self._groups) >= MERGE_ABOVE:
            self._merge()
        sent = [unsubscribe(name) for name in self._over]
        self._over.clear()
        while self._new and len(self._groups) < room:
            name, run_ids = next(self._names), self._next_batch()
            if run_ids:
                self._groups[name] = Group(run_ids)
                self._group_of.update(dict.fromkeys(run_ids, name))
                sent.append(subscribe_runs(name, run_ids))
        return sent

    def _next_batch(self) -> list[str]:
        if self._halves:
            batch = [run_id for run_id in self._halves.pop() if run_id in self._new]
        else:
            batch = list(itertools.islice(self._new, MAX_RUN_IDS))
        for run_id in batch:
            del self._new[run_id]
        return batch

    def _leave(self, run_id: str, *, heard: bool) -> None:
        self._new.pop(run_id, None)
        self._put_off.pop(run_id, None)
        name = self._group_of.pop(run_id, None)
        if name is None:
            return
        group = self._groups[name]
        del group.wanted[run_id]
        group.dropped |= not heard
        if not group.wanted:
            del self._groups[name]
            # Where every run has ended the gateway ends the subscription by itself.
            if group.dropped:
                self._over.append(name)

    def _dissolve(self, name: str) -> list[str]:
        group = self._groups.pop(name, None)
        run_ids = list(group.wanted) if group is not None else []
        for run_id in run_ids:
            del self._group_of[run_id]
            self._new[run_id] = None
        return run_ids

    def _merge(self) -> None:
        by_size = sorted(self._groups, key=lambda name: len(self._groups[name].wanted))
        total = len(self._new)
        for name in by_size[: len(by_size) // 2]:
            total += len(self._groups[name].wanted)
            if total > MAX_RUN_IDS:
                return
            self.renew(name)
