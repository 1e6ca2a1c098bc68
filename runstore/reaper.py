"""The reaper: ends or retries runs whose worker is silent, and ends those that are past their time, by events.

It decides here, by what it saw; the deed is one script that looks again. After an outage or a jump of the store's clock
it leaves what workers hold alone for the length of a lease, so that every worker that lives can say so. It also lets no
lease last longer than that, for where the clock was set back a dead worker's would last until it is as late again.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from logging import getLogger
from time import monotonic
from typing import Annotated, Any, Final

import msgspec

from runstore.adapters.reaping import Due, RedisReaping, was_refused
from runstore.adapters.store import RedisStore
from runstore.core.errors import RunstoreError, StoreUnavailable
from runstore.core.event import Event
from runstore.core.lease import MAX_TURN_GAP, Verdict, judge_lease, resume_reaping_ms
from runstore.core.status import Status
from runstore.lifecycle import OneTask
from runstore.wire.event import RequestJson, encode_event

MOST_UNBEGUN: Final = 3
"""How often a run is claimed beyond its attempts by workers that were lost before its command began."""

_NAME: Final = "reaper"
_REQUEST: Final = msgspec.json.Decoder(RequestJson)
_log = getLogger("runstore.reaper")


class ReaperConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a reaper works."""

    every_ms: Annotated[int, msgspec.Meta(ge=10)] = 1_000
    """Milliseconds between two turns; well under half a lease, else every turn looks like one after an outage."""

    lease_ms: Annotated[int, msgspec.Meta(ge=100)] = 15_000
    """Milliseconds that workers hold a run for; after an outage nothing is ended for so long. A run is timed out no
    sooner after one than so, within which workers say how much of its time is left."""

    max_backoff_s: float = 5.0
    """Seconds to wait at most after a turn that failed; the first waits are shorter."""


class Reaper(OneTask):
    """Reap a store's leases and deadlines, alone or beside others."""

    def __init__(self, store: RedisStore, config: ReaperConfig | None = None) -> None:
        self._config = config or ReaperConfig()
        self._redis = RedisReaping(store)
        self._seen: tuple[int, float] | None = None
        self._resume_ms = 0
        self._is_disturbed = False
        self.turns_failed = 0
        self.retried = 0
        self.ended = 0
        self.ends: Counter[Status] = Counter()
        """Those that were ended, by how."""

    async def start(self) -> None:
        """Begin to take turns."""
        if self._config.every_ms > self._config.lease_ms * MAX_TURN_GAP / 2:
            _log.warning("turns_are_rare", extra={"every_ms": self._config.every_ms, "lease_ms": self._config.lease_ms})
        self._begin(self._reap_forever(), "runstore-reaper")

    async def turn(self) -> int:
        """Look once at all that is past and do what is to be done; return how many runs were ended or retried.

        Raises: StoreUnavailable.
        """
        workers_may_speak = await self._wait_out()
        now_ms, _ = self._seen or (0, 0.0)
        sight = await self._redis.look(now_ms)
        done = 0
        # a run in a queue is held by nobody whose word could be waited for
        for due in sight.queue_deadlines:
            done += await self._surely(due, self._reap_wait(due))
        if workers_may_speak:
            return done
        for due in filter(self._has_had_its_term, sight.leases):
            done += await self._surely(due, self._reap_lease(due, sight.now_ms))
        for due in sight.deadlines:
            done += await self._surely(due, self._reap_deadline(due))
        return done

    def _has_had_its_term(self, due: Due) -> bool:
        """Whether a holder whose lease is longer than ours may also have spoken since the last disturbance."""
        now_ms, _ = self._seen or (0, 0.0)
        return now_ms >= self._resume_ms + max(0, due.term_ms - self._config.lease_ms)

    async def _wait_out(self) -> bool:
        """Read the clocks, and say whether nothing that a worker may hold is to be ended yet."""
        now_ms, at = await self._redis.now_ms(), monotonic()
        lease_ms = self._config.lease_ms
        seen_ms, seen_at = self._seen or (now_ms, float("-inf"))
        elapsed_ms = min(at - seen_at, 1e9) * 1000
        before_ms = self._resume_ms
        self._resume_ms = resume_reaping_ms(
            now_ms=now_ms, seen_ms=seen_ms, elapsed_ms=round(elapsed_ms), lease_ms=lease_ms, resume_ms=before_ms
        )
        self._seen = (now_ms, at)
        if self._resume_ms > max(before_ms, now_ms) or seen_ms > now_ms:
            _log.info("reaping_waits", extra={"for_ms": self._resume_ms - now_ms})
            self._is_disturbed = True
        if self._is_disturbed:
            shortened = await self._redis.shorten()
            self._is_disturbed = False
            if shortened:
                _log.warning("leases_shortened", extra={"leases": shortened})
        return now_ms < self._resume_ms

    async def _surely(self, due: Due, deed: Coroutine[Any, Any, bool]) -> bool:
        """Let no run that cannot be dealt with hold up the others."""
        try:
            return await deed
        except StoreUnavailable as error:
            if not was_refused(error):
                raise
            _log.error("run_not_reaped", extra={"run_id": due.run_id, "reason": error.detail[:200]})
            return False

    async def _reap_lease(self, due: Due, now_ms: int) -> bool:
        verdict = judge_lease(until_ms=due.past_ms, now_ms=now_ms, attempt=due.attempt, attempts=due.attempts)
        if verdict is Verdict.LOST and not due.has_begun and due.claims < due.attempts + MOST_UNBEGUN:
            verdict = Verdict.RETRY
        if verdict is Verdict.HELD:
            return False
        if not due.project:
            await self._redis.dismiss(due)
            return False
        if due.cancel_asked:
            return await self._end(due, Status.CANCELLED, "cancelled on request", self._redis.end_lease)
        if verdict is Verdict.LOST:
            return await self._end(due, Status.FAILED, "worker lost", self._redis.end_lease)
        if not await self._redis.retry(due):
            return False
        self.retried += 1
        _log.warning("run_retried", extra={"run_id": due.run_id, "attempt": due.attempt})
        return True

    async def _reap_deadline(self, due: Due) -> bool:
        if not due.project:
            await self._redis.dismiss(due)
            return False
        seconds = _asked(due.request).timeout_s
        within = f" within {seconds:g} s" if seconds is not None else " in time"
        return await self._end(due, Status.TIMED_OUT, f"no end{within}", self._redis.end_deadline)

    async def _reap_wait(self, due: Due) -> bool:
        if not due.project:
            await self._redis.dismiss(due)
            return False
        seconds = _asked(due.request).queue_timeout_s
        within = f" within {seconds:g} s" if seconds is not None else " in time"
        return await self._end(due, Status.TIMED_OUT, f"no worker took the run{within}", self._redis.end_wait)

    async def _end(self, due: Due, status: Status, reason: str, deed: Callable[[Due, bytes], Awaitable[bool]]) -> bool:
        event = Event(
            run_id=due.run_id,
            status=status,
            project_name=due.project,
            attempt=due.attempt or None,
            error_message=reason,
            worker=_NAME,
        )
        if not await deed(due, encode_event(event)):
            return False
        self.ended += 1
        self.ends[status] += 1
        _log.warning("run_reaped", extra={"run_id": due.run_id, "status": status.value, "reason": reason})
        return True

    async def _reap_forever(self) -> None:
        failures = 0
        while True:
            try:
                await self.turn()
                failures = 0
                pause_s = self._config.every_ms / 1000
            except Exception as error:  # noqa: BLE001 - whatever it was, the leases are still there and must be watched
                failures += 1
                self.turns_failed += 1
                pause_s = min(self._config.max_backoff_s, 0.05 * 2.0 ** min(failures - 1, 10))
                if isinstance(error, RunstoreError):
                    _log.error("turn_failed", extra={"failures": failures, "reason": error.detail})
                else:
                    _log.exception("turn_failed", extra={"failures": failures})
            await asyncio.sleep(pause_s)


def _asked(request: bytes) -> RequestJson:
    try:
        return _REQUEST.decode(request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return RequestJson()
