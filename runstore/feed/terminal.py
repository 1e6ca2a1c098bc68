"""Wait for the end of one run: join the feed, look the run up, speak once."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from runstore.core.ids import RunId
from runstore.core.run import Run
from runstore.core.subscription import WHOLE_COMMIT, Change, Subscription, Version
from runstore.feed.hub import Hub, Push, Rollback
from runstore.wire.record import Record


async def wait_terminal(
    hub: Hub, run_id: RunId, look: Callable[[], Awaitable[Record | None]], timeout_s: float
) -> Run | None:
    """Wait until the run has ended, and return it; when the time is over, return it as it stands (None: unknown).

    Raises: whatever `look` raises.
    """
    waiter = _Waiter(run_id)
    hub.join(waiter, run_ids=(run_id,))
    try:
        async with asyncio.timeout(timeout_s) as limit:
            while not waiter.subscription.done:
                await waiter.catch_up(look)
                await waiter.news.wait()
                waiter.news.clear()
    except TimeoutError:
        if not limit.expired():
            raise
    finally:
        hub.leave(waiter, run_ids=(run_id,))
    return waiter.run


class _Waiter:
    def __init__(self, run_id: RunId) -> None:
        self.run_id = run_id
        self.run: Run | None = None
        self.subscription: Subscription[Run] = Subscription(frozenset((run_id,)), every_change=True)
        self.news = asyncio.Event()
        self._life = 0
        self._looked_life = -1

    async def catch_up(self, look: Callable[[], Awaitable[Record | None]]) -> None:
        """Look the run up where that was not done since the feed began."""
        while self._looked_life != self._life:
            life = self._life
            record = await look()
            if life == self._life:
                self._looked_life = life
                snapshot = self._change(record.run, Version(record.version, WHOLE_COMMIT)) if record else None
                self._take(self.subscription.look(self.run_id, snapshot))

    def hear(self, pushes: Sequence[Push]) -> None:
        for push in pushes:
            self._take(self.subscription.hear(self._change(push.run, push.version)))

    def rolled_back(self, rollback: Rollback) -> None:
        if not self.subscription.done:
            self._life += 1
            self.subscription.forget(self.run_id)
            self.news.set()

    def _change(self, run: Run, version: Version) -> Change[Run]:
        return Change(self.run_id, version, run.is_terminal, run)

    def _take(self, changes: list[Change[Run]]) -> None:
        for change in changes:
            self.run = change.payload
        if self.subscription.done:
            self.news.set()
