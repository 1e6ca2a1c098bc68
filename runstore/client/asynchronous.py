"""The asynchronous client: requests over HTTP, waits and watches over one websocket."""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, Unpack, overload
from urllib.parse import quote
from uuid import uuid4

import msgspec

from runstore.client.channel import Asked, OnProgress
from runstore.client.config import ClientConfig
from runstore.client.errors import UnexpectedAnswer, WaitTimeout
from runstore.client.filters import Filters, list_params
from runstore.client.http import Answer, Http, Token
from runstore.client.link import Link
from runstore.client.logs import read_logs
from runstore.client.messages import Events
from runstore.client.run import (
    ListedRun,
    Output,
    Run,
    RunEvent,
    RunPage,
    RunToken,
    decode_events,
    decode_output,
    decode_page,
    decode_run,
    decode_token,
)
from runstore.client.watch import Watch
from runstore.core.errors import InvalidRequest
from runstore.core.ids import parse_prefix, parse_run_id
from runstore.telemetry import current_traceparent

_T = TypeVar("_T")
_MAX_HOLD_S: Final = 60
_BIG_S: Final = 270
"""A whole output is up to 64 MiB, which takes longer than other answers."""
_PAGE: Final = 200
_DIGITS: Final = 32


class AsyncClient:
    """Ask a gateway for runs, look them up, and hear of them as they go on.

    `url` and `token` unset are RUNSTORE_URL and RUNSTORE_TOKEN; the latter is never sent to another address. A token
    may be a function that returns one, for those that run out. It is made in any place, and used in one event loop.
    `run_id` means a run id or a prefix of one, from 4 hex digits on.

    Raises: every call may raise Unauthorized, Forbidden, RateLimited, StoreUnavailable, GatewayUnreachable, and
    UnexpectedAnswer where something else than a gateway answers.
    """

    def __init__(self, url: str | None = None, *, token: Token = None, config: ClientConfig | None = None) -> None:
        told = os.environ.get("RUNSTORE_URL")
        if url is None and told is None:
            raise InvalidRequest("give the gateway's address, such as http://127.0.0.1:8080, or set RUNSTORE_URL")
        if token is None and (url is None or url == told):
            token = os.environ.get("RUNSTORE_TOKEN") or None
        self.config = config or ClientConfig()
        self._http = Http(url or told or "", token, self.config)
        self._link: Link | None = None

    async def run(
        self,
        project_name: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        mode: Literal["async", "sync"] = "async",
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        commit_sha: str | None = None,
        branch: str | None = None,
        tags: Sequence[str] = (),
        run_id: str | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Run:
        """Ask for a run; with `mode="sync"` return it when it has ended, however long that takes.

        A lost answer is asked for again and makes no second run: the call has an idempotency key of its own where
        none is given.

        `traceparent` (W3C Trace Context) is the trace that the run belongs to: its model and those who watch see it.
        Unset it is that of the current span, where the program records spans with OpenTelemetry.

        Units: `timeout_s` limits the run itself, `queue_timeout_s` its wait for a worker.

        Raises: InvalidRequest, UnknownProject, PayloadTooLarge, IdempotencyConflict.
        """
        asked = {
            "project_name": project_name,
            "inputs": inputs,
            "mode": mode,
            "timeout_s": timeout_s,
            "queue_timeout_s": queue_timeout_s,
            "commit_sha": commit_sha,
            "branch": branch,
            "tags": list(tags) or None,
            "run_id": run_id,
        }
        key = idempotency_key or (uuid4().hex if run_id is None else None)
        headers = {"Idempotency-Key": key, "traceparent": traceparent or current_traceparent()}
        answer = await self._http.request(
            "POST",
            "/v1/runs",
            headers={name: text for name, text in headers.items() if text is not None},
            body=_encode({name: value for name, value in asked.items() if value is not None}),
            hold_s=_MAX_HOLD_S if mode == "sync" else 0,
        )
        run = _read(decode_run, answer)
        return run if mode == "async" or run.is_terminal else await self.wait(run.run_id)

    async def get_run(self, run_id: str, *, wait_s: float | None = None, after: str | None = None) -> Run:
        """Get a run, held until it has ended where `wait_s` says for how long at most.

        `after` is a cursor: the answer is never from before it.

        Raises: RunNotFound, AmbiguousRunId, InvalidRunId, InvalidRequest, CursorLost.
        """
        path, params = _path(run_id), [("after", after)] if after is not None else []
        left = math.ceil(wait_s) if wait_s is not None else 0
        while True:
            hold_s = min(max(left, 0), _MAX_HOLD_S)
            headers = {"Prefer": f"wait={hold_s}"} if hold_s else {}
            run = _read(
                decode_run, await self._http.request("GET", path, params=params, headers=headers, hold_s=hold_s)
            )
            left -= hold_s
            if run.is_terminal or left <= 0:
                return run

    async def wait(self, run_id: str, timeout_s: float | None = None) -> Run:
        """Wait until a run has ended and return it: pushed, never polled. All waits of a client share one connection.

        A full id that nobody has heard of yet is waited for as well. Lost touch is no end: the wait goes on over the
        next connection.

        Units: `timeout_s` None waits for as long as it takes.

        Raises: WaitTimeout (a TimeoutError); RunNotFound, AmbiguousRunId for a prefix; InvalidRunId;
        GatewayUnreachable after `config.give_up_s` without touch.
        """
        try:
            async with asyncio.timeout(timeout_s) as limit:
                if not _is_whole(run_id):
                    run = await self.get_run(run_id)
                    if run.is_terminal:
                        return run
                    run_id = run.run_id
                return await self._the_link().wait(parse_run_id(run_id))
        except TimeoutError:
            if not limit.expired():
                raise
            raise WaitTimeout(f"run {run_id} has not ended within {timeout_s:g} s") from None

    def watch(
        self,
        *run_ids: str,
        project_name: str | None = None,
        events: Events = "terminal",
        output: bool = True,
        cursor: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Watch:
        """Watch runs, or all of a project: iterate over the result with `async for`.

        A watch of runs hands out those that have ended already, and ends by itself after the last. A project's hears
        what happens from now on, or after `cursor`, and never ends by itself. With `events="all"` each transition is
        handed out; `on_progress` is then called in between with a run id and its progress. Lost connections are
        resumed where the watch stood, and what comes again is left out. `async with` waits until the gateway listens.

        Needs: a running event loop.

        Raises: InvalidRequest, InvalidRunId; when iterating also RunNotFound, AmbiguousRunId, GatewayUnreachable.
        """
        if bool(run_ids) == (project_name is not None):
            raise InvalidRequest("watch either some runs or a project: watch(run_id, …) or watch(project_name=…)")
        if events not in {"terminal", "all"}:
            raise InvalidRequest(f"events are 'terminal' or 'all', not {events!r}")
        asyncio.get_running_loop()
        asked = Asked(tuple(dict.fromkeys(_canonical(run_id) for run_id in run_ids)), project_name, events, output)
        link = self._the_link()
        return Watch(link, link.open_channel(asked, cursor, on_progress), cursor)

    async def list_page(self, *, limit: int = 50, cursor: str | None = None, **filters: Unpack[Filters]) -> RunPage:
        """Get one page of runs, newest first; `cursor` is the `next_cursor` of the page before.

        Raises: InvalidRequest.
        """
        params = [*list_params(filters), ("limit", str(limit))]
        if cursor is not None:
            params.append(("cursor", cursor))
        return _read(decode_page, await self._http.request("GET", "/v1/runs", params=params))

    async def list_runs(self, **filters: Unpack[Filters]) -> AsyncIterator[ListedRun]:
        """Walk over all runs that match, newest first, page by page; none that existed is missed or repeated.

        Raises: InvalidRequest.
        """
        cursor: str | None = None
        while True:
            page = await self.list_page(limit=_PAGE, cursor=cursor, **filters)
            for run in page.runs:
                yield run
            cursor = page.next_cursor
            if cursor is None:
                return

    async def cancel(self, run_id: str) -> Run:
        """Ask for a run to be cancelled, and return it as it stands; one that has ended stays as it is.

        Raises: RunNotFound, AmbiguousRunId, InvalidRunId.
        """
        answer = await self._http.request("POST", f"{_path(run_id)}/cancel", body=b"", repeatable=False)
        return _read(decode_run, answer)

    @overload
    async def output(self, run_id: str, name: None = None) -> Output: ...
    @overload
    async def output(self, run_id: str, name: str) -> Any: ...
    async def output(self, run_id: str, name: str | None = None) -> Any:
        """Get all that a run left behind, uncut, or one named output of it, as Python values.

        Raises: OutputNotFound, RunNotFound, AmbiguousRunId, InvalidRunId.
        """
        if name is None:
            return _read(decode_output, await self._http.request("GET", f"{_path(run_id)}/output", hold_s=_BIG_S))
        path = f"{_path(run_id)}/output/{quote(name, safe='')}"
        return _read(msgspec.json.decode, await self._http.request("GET", path, hold_s=_BIG_S))

    async def events(self, run_id: str) -> tuple[RunEvent, ...]:
        """Get the events of a run in order, the ignored ones marked.

        Raises: RunNotFound, AmbiguousRunId, InvalidRunId.
        """
        return _read(decode_events, await self._http.request("GET", f"{_path(run_id)}/events"))

    async def logs(self, run_id: str, *, follow: bool = False) -> AsyncIterator[tuple[str, str]]:
        """Read what a run wrote, as pairs of `stdout` or `stderr` and text; with `follow` as it comes, to its end.

        Raises: RunNotFound, AmbiguousRunId, InvalidRunId.
        """
        async for piece in read_logs(self._http, f"{_path(run_id)}/logs", follow=follow):
            yield piece

    async def run_token(self, run_id: str, *, expires_s: int | None = None) -> RunToken:
        """Make a token for one run, read-only and short-lived, for a browser to watch it.

        It ends with this client's own token at the latest.

        Units: `expires_s` None is 15 minutes; at most a day.

        Raises: RunNotFound, AmbiguousRunId, InvalidRunId, InvalidRequest.
        """
        asked = _encode({"expires_s": expires_s}) if expires_s is not None else b""
        return _read(decode_token, await self._http.request("POST", f"{_path(run_id)}/token", body=asked))

    async def close(self) -> None:
        """Close all connections; what still waits gets GatewayUnreachable. May be called twice."""
        if self._link is not None:
            await self._link.close()
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _the_link(self) -> Link:
        if self._link is None:
            self._link = Link(self._http)
        return self._link


def _path(run_id: str) -> str:
    parse_prefix(run_id)
    return f"/v1/runs/{_canonical(run_id)}"


def _canonical(run_id: str) -> str:
    """Return a whole id in its canonical spelling, and a prefix as it was typed, without blanks.

    Raises: InvalidRunId.
    """
    return parse_run_id(run_id) if _is_whole(run_id) else run_id.strip()


def _is_whole(run_id: str) -> bool:
    return len(parse_prefix(run_id)) == _DIGITS


def _read(decode: Callable[[bytes], _T], answer: Answer) -> _T:
    try:
        return decode(answer.body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnexpectedAnswer(f"the answer cannot be read: {str(error)[:200]}; is this a runstore gateway?") from None


def _encode(asked: object) -> bytes:
    try:
        return msgspec.json.encode(asked)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"the inputs cannot be written as JSON: {str(error)[:200]}") from None
