"""The blocking client: the asynchronous one in a thread of its own."""

import threading
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from runstore.background import Background
from runstore.client.asynchronous import AsyncClient
from runstore.client.channel import Item, OnProgress
from runstore.client.config import ClientConfig
from runstore.client.errors import GatewayUnreachable
from runstore.client.filters import Filters
from runstore.client.http import Token
from runstore.client.messages import Events
from runstore.client.run import ListedRun, Output, Run, RunEvent, RunPage, RunToken
from runstore.client.watch import Watch
from runstore.telemetry import current_traceparent

_T = TypeVar("_T")


class Client:
    """AsyncClient for programs without an event loop, with the same calls, arguments and errors.

    Several threads may use one, and their waits share one connection. `with` closes it, as does `close`; one that is
    left open ends with the process. A child made by fork gets a connection of its own.
    """

    def __init__(self, url: str | None = None, *, token: Token = None, config: ClientConfig | None = None) -> None:
        self._told = (url, token, config)
        self._client = AsyncClient(url, token=token, config=config)
        self._background = Background("runstore-client", self._client.close)
        self._lock = threading.Lock()
        self._closed = False

    def run(
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
        """Ask for a run: see `AsyncClient.run`."""
        client = self._here()
        return self._run(
            client.run(
                project_name,
                inputs,
                mode=mode,
                timeout_s=timeout_s,
                queue_timeout_s=queue_timeout_s,
                commit_sha=commit_sha,
                branch=branch,
                tags=tags,
                run_id=run_id,
                idempotency_key=idempotency_key,
                traceparent=traceparent or current_traceparent(),  # the thread that asks knows of no span
            )
        )

    def get_run(self, run_id: str, *, wait_s: float | None = None, after: str | None = None) -> Run:
        """Get a run: see `AsyncClient.get_run`."""
        return self._run(self._here().get_run(run_id, wait_s=wait_s, after=after))

    def wait(self, run_id: str, timeout_s: float | None = None) -> Run:
        """Wait until a run has ended: see `AsyncClient.wait`."""
        return self._run(self._here().wait(run_id, timeout_s))

    def watch(
        self,
        *run_ids: str,
        project_name: str | None = None,
        events: Events = "terminal",
        output: bool = True,
        cursor: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> "BlockingWatch":
        """Watch runs or a project: see `AsyncClient.watch`. `on_progress` is called in the client's own thread."""
        client = self._here()

        async def begin() -> Watch:
            return client.watch(
                *run_ids,
                project_name=project_name,
                events=events,
                output=output,
                cursor=cursor,
                on_progress=on_progress,
            )

        return BlockingWatch(self._background, self._run(begin()))

    def list_page(self, *, limit: int = 50, cursor: str | None = None, **filters: Unpack[Filters]) -> RunPage:
        """Get one page of runs: see `AsyncClient.list_page`."""
        return self._run(self._here().list_page(limit=limit, cursor=cursor, **filters))

    def list_runs(self, **filters: Unpack[Filters]) -> Iterator[ListedRun]:
        """Walk over all runs that match: see `AsyncClient.list_runs`."""
        cursor: str | None = None
        while True:
            page = self.list_page(limit=200, cursor=cursor, **filters)
            yield from page.runs
            cursor = page.next_cursor
            if cursor is None:
                return

    def cancel(self, run_id: str) -> Run:
        """Ask for a run to be cancelled: see `AsyncClient.cancel`."""
        return self._run(self._here().cancel(run_id))

    @overload
    def output(self, run_id: str, name: None = None) -> Output: ...
    @overload
    def output(self, run_id: str, name: str) -> Any: ...
    def output(self, run_id: str, name: str | None = None) -> Any:
        """Get what a run left behind, or one named output: see `AsyncClient.output`."""
        return self._run(self._here().output(run_id, name))

    def events(self, run_id: str) -> tuple[RunEvent, ...]:
        """Get the events of a run: see `AsyncClient.events`."""
        return self._run(self._here().events(run_id))

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[tuple[str, str]]:
        """Read what a run wrote: see `AsyncClient.logs`."""
        pieces = self._here().logs(run_id, follow=follow)
        background = self._background

        async def step() -> tuple[str, str] | None:
            return await anext(pieces, None)

        while (piece := background.run(step())) is not None:
            yield piece

    def run_token(self, run_id: str, *, expires_s: int | None = None) -> RunToken:
        """Make a token for one run: see `AsyncClient.run_token`."""
        return self._run(self._here().run_token(run_id, expires_s=expires_s))

    def close(self) -> None:
        """Close all connections and end the thread; what still waits gets GatewayUnreachable. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._background.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._background.run(work)

    def _here(self) -> AsyncClient:
        if self._closed:
            raise GatewayUnreachable("the client was closed")
        if self._background.is_foreign:
            with self._lock:
                if self._background.is_foreign:
                    url, token, config = self._told
                    self._client = AsyncClient(url, token=token, config=config)
                    self._background = Background("runstore-client", self._client.close)
        return self._client


class BlockingWatch:
    """A watch as a plain iterator; `with` waits until the gateway listens, and ends it."""

    def __init__(self, background: Background, watch: Watch) -> None:
        self._background = background
        self._watch = watch
        self._taken: deque[Item] = deque()
        self._over = False
        self._cursor = watch.cursor

    @property
    def cursor(self) -> str | None:
        """The place behind the last run that was handed out: see `Watch.cursor`."""
        return self._cursor

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Run:
        if not self._taken and not self._over:
            self._taken.extend(self._background.run(self._watch.take()))
            self._over = not self._taken
        if not self._taken:
            raise StopIteration
        item = self._taken.popleft()
        self._cursor = item.cursor or self._cursor
        return item.run

    def close(self) -> None:
        """Listen no longer; may be called twice."""
        self._over = True
        self._taken.clear()
        self._background.run(self._watch.aclose())

    def __enter__(self) -> Self:
        self._background.run(self._watch.ready())
        self._cursor = self._watch.cursor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
