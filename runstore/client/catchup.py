"""What happened in a project while nobody listened: read from the listing, and handed to its watch."""

import asyncio
import logging

import msgspec

from runstore.client.backoff import pause_s
from runstore.client.channel import Channel
from runstore.client.http import Http
from runstore.client.run import ListedRun, Run, decode_page
from runstore.core.errors import RunNotFound, RunstoreError

_LOG = logging.getLogger("runstore.client")
_PAGE = 200


def catch_up(http: Http, channel: Channel, since: str) -> None:
    """Catch up in a task of its own, beginning again with whatever the one before had not reached."""
    before = channel.catching_up
    if before is not None and not before.done():
        before.cancel()
        since = min(since, channel.caught_up_since or since)
    channel.caught_up_since = since
    channel.catching_up = asyncio.get_running_loop().create_task(_until_done(http, channel, since))


async def read_since(http: Http, channel: Channel, since: str) -> None:
    """Hand a project's watch what finished after a time and, if it hears each transition, what goes on.

    Raises: what a request raises.
    """
    assert channel.asked.project_name is not None
    project = ("project_name", channel.asked.project_name)
    await _read(http, channel, [project, ("finished_after", since)])
    if channel.asked.events == "all":
        await _read(http, channel, [project, ("status", "pending"), ("status", "running")])


async def _until_done(http: Http, channel: Channel, since: str) -> None:
    attempt = 0
    while not channel.over:
        try:
            return await read_since(http, channel, since)
        except RunstoreError as error:
            if not error.retryable:
                channel.fail(error)
            _LOG.warning("catch_up_failed", extra={"code": error.code, "since": since})
        except msgspec.MsgspecError:
            _LOG.exception("catch_up_unreadable")
            return None
        await asyncio.sleep(pause_s(http.config, attempt))
        attempt += 1
    return None


async def _read(http: Http, channel: Channel, asked: list[tuple[str, str]]) -> None:
    params = [*asked, ("limit", str(_PAGE))]
    cursor: str | None = None
    while True:
        more = [("cursor", cursor)] if cursor is not None else []
        page = decode_page((await http.request("GET", "/v1/runs", params=[*params, *more])).body)
        for listed in page.runs:
            await _hand_over(http, channel, listed)
        cursor = page.next_cursor
        if cursor is None:
            return


async def _hand_over(http: Http, channel: Channel, listed: ListedRun) -> None:
    if not channel.asked.output or not listed.is_terminal:
        channel.offer(_without_output(listed).to_json())
    elif channel.lacks_end(listed.run_id):
        try:
            channel.offer((await http.request("GET", f"/v1/runs/{listed.run_id}")).body)
        except RunNotFound:
            _LOG.info("run_gone", extra={"run_id": listed.run_id})


def _without_output(listed: ListedRun) -> Run:
    return msgspec.convert({**msgspec.structs.asdict(listed), "output": None}, Run)
