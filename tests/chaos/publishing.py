"""A publisher's process: tells the stories of its runs, one after another, until it is asked to stop.

It is killed and frozen at random. Started again it reads its own part of the history and first tells to the end what
its earlier life had begun, as a queue would give the work to it again.
"""

import argparse
import asyncio
import signal
import time
from pathlib import Path
from typing import Final

from runstore import AsyncClient, AsyncPublisher, ClientConfig
from runstore.core.errors import RunstoreError, StoreUnavailable
from runstore.publish import PublisherConfig
from tests.chaos.history import History, Outcome, read_part
from tests.chaos.load import BLOCK, Told, project_of, run_id_of, story_of

LONGEST_S: Final = 1800.0
"""How long what is in the spool may take at the end: the runner sees whether it gets less."""


class Telling:
    """One life of the process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        path = Path(options.history) / f"{options.name}.jsonl"
        self.begun, self.ended = _earlier(path)
        self.history = History(path)
        self.next = max(self.begun, default=-1) + 1
        self.unfinished = sorted(self.begun - self.ended)
        self.stopping = asyncio.Event()
        self.pace = options.rate and 1 / options.rate
        self.due = time.monotonic()

    async def work(self) -> None:
        """Tell runs until asked to stop; those begun are told to the end."""
        options = self.options
        config = PublisherConfig(
            spool_dir=options.spool, durability=options.durability, min_replicas=options.min_replicas, lease_s=5
        )
        client_config = ClientConfig(timeout_s=8, connect_timeout_s=3, retry_for_s=10)
        async with (
            AsyncClient(self.options.url, token=self.options.token, config=client_config) as self.client,
            AsyncPublisher(self.options.redis_url, config=config) as self.publisher,
        ):
            print("ready", flush=True)
            await asyncio.gather(*(self._tell_runs(place) for place in range(options.width)))
            await self.publisher.flush(LONGEST_S)
            while not await self.publisher.deliver_abandoned():  # noqa: ASYNC110 - nothing tells when Redis is back
                await asyncio.sleep(0.2)

    async def _tell_runs(self, place: int) -> None:
        who = f"{self.options.name}/{place}"
        while (number := self._take()) is not None:
            await self._tell_run(who, number)
            self.history.hear(who, "told", detail=str(number))

    def _take(self) -> int | None:
        if self.unfinished:
            return self.unfinished.pop(0)
        # a block is told whole, since somebody waits for all of it
        if self.stopping.is_set() and self.next % BLOCK == 0:
            return None
        self.next += 1
        return self.next - 1

    async def _tell_run(self, who: str, number: int) -> None:
        run_id = run_id_of(self.options.seed, self.options.name, number)
        story = story_of(run_id)
        self.history.hear(who, "begun", detail=str(number))
        if not story:
            await self._track(who, run_id, project_of(number))
            return
        for turn in range(story[-1].turn + 1):
            told = [event for event in story if event.turn == turn]
            await self._keep_pace(len(told))
            await asyncio.gather(*(self._tell(who, run_id, project_of(number), event) for event in told))

    async def _track(self, who: str, run_id: str, project: str) -> None:
        """Do some work that the publisher tells of, and holds a lease for: should we die, the reaper ends the run."""
        await self._keep_pace(2)
        op = self.history.invoke(who, "publish", run_id=run_id, status="success", project=project)
        async with self.publisher.track(project, run_id=run_id) as run:
            run.outputs["a"] = 1
        # it logs what it could not tell, so what is known is that there will be an end
        self.history.end(who, "publish", op, Outcome.UNKNOWN, run_id=run_id, status="success", detail="tracked")

    async def _tell(self, who: str, run_id: str, project: str, event: Told) -> None:
        output = {"stdout": "x" * event.bytes, "outputs": {"a": 1}} if event.bytes else None
        fields = {"attempt": event.attempt, "output": output}
        while True:
            told = {"run_id": run_id, "status": event.status}
            op = self.history.invoke(who, "publish", project=project, **told)
            try:
                published = await self.publisher.publish(run_id, event.status, project_name=project, **fields)
            except StoreUnavailable as error:
                self.history.end(who, "publish", op, Outcome.UNKNOWN, detail=error.detail[:100], **told)
                await asyncio.sleep(0.2)
                continue
            spooled = published.cursor is None
            self.history.end(who, "publish", op, Outcome.OK, event_id=published.event_id, spooled=spooled, **told)
            if published.cursor is not None and op % 16 == 0:
                await self._read_back(who, run_id, event.status, published.cursor)
            return

    async def _read_back(self, who: str, run_id: str, status: str, cursor: str) -> None:
        op = self.history.invoke(who, "get", run_id=run_id, after=status)
        try:
            run = await self.client.get_run(run_id, after=cursor)
        except RunstoreError as error:
            outcome = Outcome.FAILED if error.code in {"run_not_found", "cursor_lost"} else Outcome.UNKNOWN
            self.history.end(who, "get", op, outcome, run_id=run_id, detail=f"{error.code}: {error.detail[:100]}")
        else:
            self.history.end(who, "get", op, Outcome.OK, run_id=run_id, status=run.status)

    async def _keep_pace(self, events: int) -> None:
        now = time.monotonic()
        self.due = max(self.due, now - 0.2) + self.pace * events
        if self.due > now:
            await asyncio.sleep(self.due - now)


def _earlier(path: Path) -> tuple[set[int], set[int]]:
    """Return the numbers of the runs that earlier lives began, and of those they told to the end."""
    begun: set[int] = set()
    ended: set[int] = set()
    for line in read_part(path) if path.exists() else ():
        if line.do in {"begun", "told"}:
            (begun if line.do == "begun" else ended).add(int(line.detail))
    return begun, ended


async def _main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("name", "redis-url", "url", "token", "history", "spool", "durability"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--min-replicas", type=int, default=1)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--width", type=int, required=True, help="runs that are told of at the same time")
    telling = Telling(parser.parse_args())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, telling.stopping.set)
    await telling.work()


if __name__ == "__main__":
    asyncio.run(_main())
