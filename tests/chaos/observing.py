"""The observers' process: hundreds of subscribers, and some that look up, list, submit and cancel, through the SDK.

It is never killed, for it is what measures; whatever lies between it and the store is.
"""

import argparse
import asyncio
import random
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec

from runstore import AsyncClient, ClientConfig
from runstore.client import GatewayUnreachable, WaitTimeout
from runstore.core.errors import RunstoreError
from tests.chaos.history import History, Outcome, Seen
from tests.chaos.load import BLOCK, PROJECTS, block_of, project_of, sentinels

MODEL: Final = "model"
"""The project that the execution worker serves."""

_CONFIG: Final = ClientConfig(
    timeout_s=8, connect_timeout_s=3, retry_for_s=10, give_up_s=600, heartbeat_s=3, backoff_s=0.1, max_backoff_s=1
)
_PATIENT: Final = msgspec.structs.replace(_CONFIG, timeout_s=60)
"""For subscribers: a gateway that they never met is looked for no longer than one request may take."""

_GONE: Final = {"run_not_found", "cursor_lost"}


class Counts(msgspec.Struct):
    """How many runs each publisher has told of in all."""

    publishers: dict[str, int]


class Observing:
    """All observers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder = Path(options.history)
        self.history = History(self.folder / f"{options.name}.jsonl")
        self.chance = random.Random(f"{options.seed}:{options.name}")
        self.recent: deque[str] = deque(maxlen=2000)
        self.to_look_up: asyncio.Queue[str] = asyncio.Queue(200)
        self.counted = asyncio.Event()
        self.counts = Counts({})
        self.stopping = asyncio.Event()
        self.waiting: list[asyncio.Task[None]] = []

    async def work(self) -> None:
        """Observe until nothing is left to be heard."""
        names = self.options.publishers.split(",")
        each = max(1, self.options.subscribers // 2 // len(names))
        watchers = [self._watch_blocks(name, place, each) for name in names for place in range(each)]
        watchers += [self._watch_project(place) for place in range(self.options.subscribers - len(watchers))]
        busy = [self._look_up(place) for place in range(3)] + [self._list()]
        busy += [self._submit(place) for place in range(self.options.submitters)]
        watching = [asyncio.create_task(watcher) for watcher in watchers]
        calling = [asyncio.create_task(caller) for caller in busy]
        print("ready", flush=True)
        await asyncio.gather(*calling)
        self.history.hear(self.options.name, "calls-over")
        await self.counted.wait()
        _, late = await asyncio.wait(watching, timeout=self.options.patience)
        for task in late:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

    def count(self) -> None:
        """Take note of how much was told in all, so that it is known what is still to be heard."""
        self.counts = msgspec.json.decode((self.folder / "counts.json").read_bytes(), type=Counts)
        self.counted.set()

    def _client(self, config: ClientConfig = _CONFIG) -> AsyncClient:
        return AsyncClient(self.options.url, token=self.options.token, config=config)

    def _heard(self, who: str, run_id: str, status: str) -> None:
        self.history.hear(who, "push", run_id=run_id, status=status)
        self.recent.append(run_id)
        if self.chance.random() < 0.1 and not self.to_look_up.full():
            self.to_look_up.put_nowait(run_id)

    async def _watch_blocks(self, publisher: str, place: int, step: int) -> None:
        """Watch every `step`-th block of a publisher's runs to its end, one after another."""
        async with self._client(_PATIENT) as client:
            for block in count(place, step):
                watching = asyncio.create_task(self._watch_block(client, publisher, block))
                counting = asyncio.create_task(self.counted.wait())
                await asyncio.wait([watching, counting], return_when=asyncio.FIRST_COMPLETED)
                if not watching.done() and block * BLOCK >= self.counts.publishers[publisher]:
                    watching.cancel()
                    return
                counting.cancel()
                await watching

    async def _watch_block(self, client: AsyncClient, publisher: str, block: int) -> None:
        who = f"{self.options.name}/{publisher}/{block}"
        run_ids = block_of(self.options.seed, publisher, block)
        watch = client.watch(*run_ids, events="all" if block % 2 else "terminal", output=block % 3 == 0)
        try:
            await watch.ready()
            self.history.hear(who, "subscribe", run_ids=run_ids)
            async for run in watch:
                self._heard(who, run.run_id, run.status)
            self.history.hear(who, "done")
        except RunstoreError as error:
            self.history.hear(who, "watch-failed", detail=f"{error.code}: {error.detail}")
        finally:
            await watch.aclose()

    async def _watch_project(self, place: int) -> None:
        """Watch a project to its last run."""
        project = project_of(place)
        who = f"{self.options.name}/{project}/{place}"
        ahead = {run_id for run_id, of in sentinels(self.options.seed, self.options.partitions) if of == project}
        async with self._client(_PATIENT) as client:
            watch = client.watch(
                project_name=project, events="all" if place // PROJECTS % 2 else "terminal", output=False
            )
            await watch.ready()
            self.history.hear(who, "subscribe", project=project)
            async for run in watch:
                self._heard(who, run.run_id, run.status)
                ahead.discard(run.run_id)
                if not ahead:
                    self.history.hear(who, "done")
                    return

    async def _look_up(self, place: int) -> None:
        who = f"{self.options.name}/look/{place}"
        async with self._client() as client:
            while not self.stopping.is_set():
                run_id = await self._one_to_look_up()
                if run_id is not None:
                    asked = run_id if self.chance.random() < 0.7 else run_id[:14]
                    await self._call(who, "get", lambda asked=asked: client.get_run(asked), run_id)

    async def _one_to_look_up(self) -> str | None:
        try:
            async with asyncio.timeout(0.05):
                return await self.to_look_up.get()
        except TimeoutError:
            return self.chance.choice(self.recent) if self.recent else None

    async def _call(self, who: str, do: str, call: Callable[[], Awaitable[Any]], run_id: str = "") -> Any:
        """Make a call about a run and take note of it; None where nothing is known of it."""
        op = self.history.invoke(who, do, run_id=run_id)
        try:
            run = await call()
        except (RunstoreError, TimeoutError) as error:
            code = error.code if isinstance(error, RunstoreError) else "time_out"
            outcome = Outcome.FAILED if code in _GONE else Outcome.UNKNOWN
            self.history.end(who, do, op, outcome, run_id=run_id, detail=f"{code}: {str(error)[:100]}")
            return None
        self.history.end(who, do, op, Outcome.OK, run_id=run.run_id, status=run.status, project=run.project_name)
        return run

    async def _list(self) -> None:
        who = f"{self.options.name}/list"
        async with self._client() as client:
            while not self.stopping.is_set():
                statuses = self.chance.choice([(), (), ("failed",), ("cancelled", "timed_out"), ("success",)])
                await self._walk(who, client, project_of(self.chance.randrange(PROJECTS)), statuses)
                await self._rest(0.2)

    async def _walk(self, who: str, client: AsyncClient, project: str, statuses: tuple[str, ...]) -> None:
        asked = {"project": project, "statuses": statuses}
        op = self.history.invoke(who, "list", **asked)
        seen: list[Seen] = []
        cursor = None
        try:
            for _ in range(3):
                page = await client.list_page(limit=100, cursor=cursor, project_name=project, status=statuses)
                seen += [Seen(run.run_id, run.status, run.created_at) for run in page.runs]
                cursor = page.next_cursor
                if cursor is None:
                    break
        except (RunstoreError, TimeoutError) as error:
            self.history.end(who, "list", op, Outcome.UNKNOWN, detail=str(error)[:100], **asked)
        else:
            self.history.end(who, "list", op, Outcome.OK, runs=tuple(seen), is_whole=cursor is None, **asked)

    async def _submit(self, place: int) -> None:
        """Ask for runs, look at once whether they are there, cancel some, and wait for their end."""
        who = f"{self.options.name}/submit/{place}"
        async with self._client() as client:
            while not self.stopping.is_set():
                run = await self._call(who, "submit", lambda: client.run(MODEL, {"n": place}, timeout_s=60))
                if run is None:
                    await self._rest(0.5)
                    continue
                await self._call(who, "get", lambda run_id=run.run_id: client.get_run(run_id), run.run_id)
                if self.chance.random() < 0.1:
                    await self._call(who, "cancel", lambda run_id=run.run_id: client.cancel(run_id), run.run_id)
                try:
                    ended = await client.wait(run.run_id, timeout_s=90)
                except (WaitTimeout, GatewayUnreachable):
                    self.history.hear(who, "wait-over", run_id=run.run_id)
                else:
                    self._heard(f"{who}/{run.run_id}", ended.run_id, ended.status)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            return


async def _main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("name", "url", "token", "history", "publishers"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("seed", "subscribers", "submitters", "partitions"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--patience", type=float, required=True)
    observing = Observing(parser.parse_args())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, observing.stopping.set)
    loop.add_signal_handler(signal.SIGUSR1, observing.count)
    await observing.work()


if __name__ == "__main__":
    asyncio.run(_main())
