"""A project's watch where websockets are refused: no stream tells of a project, so its listing is looked at again."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from runstore.client.backoff import pause_s
from runstore.client.catchup import read_since
from runstore.client.channel import Channel
from runstore.client.http import Answer, Http
from runstore.core.errors import RunstoreError
from runstore.wire.cursor import decode_cursor

_LOG = logging.getLogger("runstore.client")
_PAUSE_S: Final = 1.0
_MOMENT: Final = timedelta(seconds=1)
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS: Final = 253_000_000_000_000
_OVERLAP: Final = timedelta(seconds=5)
_SLACK: Final = timedelta(seconds=30)


async def follow_project(http: Http, channel: Channel, dirty: asyncio.Event) -> None:
    """Follow a project by what its listing says has finished since the last look, until its watch is over.

    Needs: `dirty`, to be set when the watch failed.
    """
    since: datetime | None = None
    attempt = 0
    while not channel.over:
        try:
            params = [("project_name", channel.asked.project_name or ""), ("limit", "1")]
            now = _told_at(await http.request("GET", "/v1/runs", params=params))
            if since is None and channel.cursor is not None:
                since = max(_BEGINNING, min(_told_upto(channel.cursor), now) - _SLACK)
            since = since or now - (_SLACK if channel.was_subscribed else _MOMENT)
            await read_since(http, channel, since.isoformat())
            channel.stands(channel.parts[0], (), None)
            since, attempt, pause = now - _OVERLAP, 0, _PAUSE_S
        except RunstoreError as error:
            if not error.retryable:
                channel.fail(error)
                dirty.set()
            attempt, pause = attempt + 1, pause_s(http.config, attempt)
        except msgspec.MsgspecError:
            _LOG.exception("listing_unreadable")
            attempt, pause = attempt + 1, pause_s(http.config, attempt)
        await asyncio.sleep(pause)


def _told_upto(cursor: str) -> datetime:
    """Say up to when a watch that stands at a cursor was told everything.

    The newest event in any partition tells how old the cursor is; partitions are folded side by side, within the slack.
    """
    known = [place.folded or place.entry for place in decode_cursor(cursor)]
    newest_ms = max((entry.ms for entry in known if entry is not None), default=0)
    return _BEGINNING + timedelta(milliseconds=min(newest_ms, _LATEST_MS))


def _told_at(answer: Answer) -> datetime:
    """Return the gateway's own time, so that a client whose clock is wrong misses nothing."""
    try:
        told = parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError, TypeError):
        return datetime.now(UTC)
    return told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)
