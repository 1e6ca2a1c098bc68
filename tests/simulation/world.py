"""A simulated world: publishers, projectors, gateways, workers and the reaper as they are, over a server in memory.

A seed says who is there, what is told, which faults come, and in which order messages arrive. The world goes on until
every run has ended and everybody has heard of it; then what the server holds is compared with one fold of the log, and
what each client heard with what became of its runs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from itertools import count
from typing import Any

import msgspec

from runstore.adapters.dispatch import Standing
from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId, to_bytes
from runstore.core.partition import partition_of
from runstore.core.principal import Principal, Scope
from runstore.core.status import TERMINAL, Status
from runstore.dispatch import Claim, Dispatch, DispatchConfig, ServedProject
from runstore.feed import FeedTail
from runstore.feed.config import TailConfig
from runstore.gateway.app import make_services
from runstore.gateway.config import GatewayConfig
from runstore.gateway.context import Services
from runstore.gateway.credentials import Credentials
from runstore.projector import Projector, ProjectorConfig
from runstore.reaper import Reaper, ReaperConfig
from runstore.wire.keys import PartitionKeys
from runstore.wire.record import decode_record
from tests.ledger import Dump, check
from tests.peer import Peer, serve
from tests.projector.builders import event_of, run_id_of
from tests.simulation.loop import ACTOR, SimulatedLoop
from tests.simulation.network import Network, open_store
from tests.simulation.scripts import scripts
from tests.simulation.server import Server, Stream

_SCRIPTS = scripts()
LEASE_MS = 400
LIMIT_S = 60.0
LOOK_S = 0.05
EVERYBODY = Principal(name="caller", scopes=frozenset({Scope.ADMIN}), projects=None)
PROJECTS = ("forecasts", "other")
PROJECTOR = ProjectorConfig(batch_entries=3, block_ms=200, lease_ms=600, trim_every_commits=3, max_backoff_s=0.2)
TAIL = TailConfig(block_ms=300, prove_every_s=0.4, identify_every_s=0.3, backoff_s=0.02, backoff_max_s=0.1)
REAPER = ReaperConfig(every_ms=30, lease_ms=LEASE_MS, max_backoff_s=0.2)
DISPATCH = DispatchConfig(lease_ms=LEASE_MS, recheck_s=1.0, block_ms=300, max_backoff_s=0.1, register_every_s=5.0)


class World:
    """One world of one seed."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.chance = loop.chance
        self.server = Server()
        self.network = Network(loop, self.server)
        self.network.watch = self._see
        # most worlds begin with what would else be each client's first calls
        self.scripts = _SCRIPTS if self.chance.random() < 0.9 else {}
        self.server.load_all({sha.encode(): lua.encode() for sha, lua in self.scripts.items()})
        self.partitions = self.chance.choice((1, 1, 2))
        self.attempts = self.chance.choice((1, 1, 3))
        self.runs: list[RunId] = []
        self.acknowledged: list[bytes] = []
        self.wrong: list[str] = []
        self.listeners = 0
        self.may_be_lost: set[str] = set()
        self.gateway: tuple[Any, Services] | None = None
        self._shells: dict[str, Callable[[RedisStore], Awaitable[None]]] = {}
        self._lives: dict[str, int] = {}

    # actors

    def begin(self, name: str, shell: Callable[[RedisStore], Awaitable[None]]) -> None:
        """Begin an actor, anew where it was killed; one that fails begins again."""
        self._shells[name] = shell
        self._lives[name] = life = self._lives.get(name, 0) + 1
        context = copy_context()
        context.run(ACTOR.set, f"{name}.{life}")
        self.loop.create_task(self._live(shell), context=context)

    async def _live(self, shell: Callable[[RedisStore], Awaitable[None]]) -> None:
        store = open_store(self.network, self.partitions, self.scripts)
        while True:
            try:
                await shell(store)
                return
            except StoreUnavailable:
                await asyncio.sleep(0.02)

    def actor(self, name: str) -> str:
        """Return the actor that lives under a name."""
        return f"{name}.{self._lives[name]}"

    def kill(self, name: str) -> None:
        """Kill an actor, and begin its successor."""
        self.loop.kill(self.actor(name))
        if name == "gateway":
            self.gateway = None
        self.begin(name, self._shells[name])

    @property
    def names(self) -> list[str]:
        """Everybody who may be hurt; workers, who hold something, several times."""
        return [name for name in self._shells for _ in range(3 if name.startswith("worker") else 1)]

    def calm(self) -> None:
        """Let messages be slow no more."""
        self.loop.slow = self.network.slow_scripts = 0.0

    # what they do

    async def projector(self, store: RedisStore) -> None:
        projector = Projector(store, PROJECTOR)
        await projector.start()
        await projector.wait()

    async def greedy_projector(self, store: RedisStore) -> None:
        """Fold every partition, whoever else does: leases of partitions are for efficiency only."""
        projector = Projector(store, PROJECTOR)
        while True:
            await projector.turn()

    async def reaper(self, store: RedisStore) -> None:
        reaper = Reaper(store, REAPER)
        await reaper.start()
        await reaper.wait()

    async def serve_gateway(self, store: RedisStore) -> None:
        tail = FeedTail(store.feed, store.outputs.view, TAIL)
        await tail.start()
        config = GatewayConfig()
        services = make_services(store, config, tail, Credentials(store, config, None))
        self.gateway = copy_context(), services
        await tail.wait()

    async def worker(self, store: RedisStore) -> None:
        dispatch = Dispatch(store, DISPATCH)
        listening = [
            asyncio.ensure_future(dispatch._listen_forever()),
            asyncio.ensure_future(dispatch._register_forever()),
        ]
        with suppress(StoreUnavailable):
            await dispatch.register([ServedProject(name=name, attempts=self.attempts) for name in PROJECTS])
        del listening
        while True:
            await self._work(store, dispatch, await dispatch.claim())

    async def _work(self, store: RedisStore, dispatch: Dispatch, claim: Claim) -> None:
        if await _persist(lambda: dispatch.begin(claim)) is not Standing.HELD:
            dispatch.forget(claim)
            return
        await self.tell(store, claim.run_id, "running", attempt=claim.attempt)
        standing = Standing.HELD
        for _ in range(self.chance.randrange(7)):
            await dispatch.heard(claim, LEASE_MS / 3000)
            with suppress(StoreUnavailable):
                standing = await dispatch.heartbeat(claim)
            if standing is not Standing.HELD:
                break
        if standing is not Standing.LOST:
            status = "success" if standing is Standing.HELD else "cancelled"
            await self.tell(store, claim.run_id, status, attempt=claim.attempt, output={"stdout": claim.run_id})
            with suppress(StoreUnavailable):
                await dispatch.finish(claim)
        dispatch.forget(claim)

    async def tell(self, store: RedisStore, run_id: RunId, status: str, **fields: Any) -> None:
        """Append an event until the store has it."""
        event_id = f"{len(self.acknowledged)}-{self.chance.randrange(2**32)}"
        event = event_of(run_id, status, event_id=event_id, **fields)
        await _persist(lambda: store.log.append(run_id, event))
        self.acknowledged.append(event_id.encode())

    def publisher(self, told: list[tuple[RunId, str, dict[str, Any]]]) -> Callable[[RedisStore], Awaitable[None]]:
        """Make a publisher that tells all this in order; begun again it goes on where it was."""

        async def publish(store: RedisStore) -> None:
            while told:
                run_id, status, fields = told[0]
                await self.tell(store, run_id, status, **fields)
                del told[:1]
                await asyncio.sleep(self.chance.random() * 0.03)

        return publish

    async def listen(self, asked: dict[str, Any], run_ids: set[RunId]) -> None:
        """Be a client: listen at whichever gateway there is, from the last cursor on, until all runs have ended."""
        cursor: str | None = None
        heard: list[dict[str, Any]] = []
        ended: dict[str, str] = {}
        while ended.keys() != run_ids:
            if self.gateway is None:
                await asyncio.sleep(0.01)
                continue
            (context, services), peer = self.gateway, SimulatedPeer(self)
            serving = self.loop.create_task(serve(services, EVERYBODY, peer), context=context)
            peer.say(type="subscribe", id="a", **asked, **({"cursor": cursor} if cursor else {}))
            place = 0
            while not serving.done() and self.gateway == (context, services) and ended.keys() != run_ids:
                peer.news.clear()
                for said in peer.heard[place:]:
                    place += 1
                    cursor = said.get("cursor", cursor)
                    heard.append(said)
                    if said["type"] == "reset":
                        self.wrong.append(f"a reset in a store that was never rolled back: {said['detail']}")
                    if said["type"] == "run" and said["run"]["status"] in TERMINAL and said["run"]["run_id"] in run_ids:
                        self._hear_end(ended, said["run"])
                    elif said["type"] == "run" and ended.get(said["run"]["run_id"]):
                        self.wrong.append(f"{said['run']['run_id']} went on after its end")
                if ended.keys() == run_ids or (peer.heard and peer.heard[-1]["type"] == "error"):
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await peer.news.wait()
            peer.hang_up()
            if peer.heard and peer.heard[-1]["type"] == "done" and ended.keys() != run_ids:
                self.wrong.append(f"done was said before {run_ids - ended.keys()} had ended")
                return
            await asyncio.sleep(0.01)
        self.listeners -= 1

    def _hear_end(self, ended: dict[str, str], run: dict[str, Any]) -> None:
        before = ended.setdefault(run["run_id"], run["status"])
        if before != run["status"]:
            self.wrong.append(f"{run['run_id']} was told as {before}, then as {run['status']}")

    # what became of it

    def status_of(self, run_id: RunId) -> Status | None:
        """Read a run's status as the server has it at this moment."""
        keys = PartitionKeys(partition_of(run_id, self.partitions))
        record = decode_record(run_id, self.server.keys.get(keys.run(to_bytes(run_id)), {}))
        return record.run.status if record is not None else None

    def _see(self, key: bytes) -> None:
        """Look at what a step added to a stream, before the step goes on: nobody ends a run whose lease holds."""
        head, _, name = key.rpartition(b":")
        if name != b"events" or b'"worker lost"' not in (event := self.server.keys[key].entries[-1][2][1]):
            return
        run_id = RunId(msgspec.json.decode(event)["run_id"])
        until_ms = self.server.keys.get(head + b":leases", {}).get(to_bytes(run_id), 0)
        if until_ms > self.server.now_ms:
            self.wrong.append(
                f"the run {run_id} was ended though its lease holds for {until_ms - self.server.now_ms} ms"
            )

    async def until_ended(self) -> None:
        """Wait until every run has ended and every listener has heard it."""
        while not (all(self.status_of(run_id) in TERMINAL for run_id in self.runs) and not self.listeners):
            if self.loop.now_s > LIMIT_S or self.wrong:
                open_runs = {run_id: self.status_of(run_id) for run_id in self.runs}
                self.wrong.append(f"no end after {self.loop.now_s:.0f} s: {open_runs}, {self.listeners} listeners")
                return
            await asyncio.sleep(LOOK_S)

    async def settle(self) -> None:
        """Let everybody end, all that was sent be done, and a last projector fold what there is."""
        self.loop.plan.clear()
        for name in self._shells:
            self.loop.kill(self.actor(name))
        self.loop.thaw("server")
        self.calm()
        self.network.cuts.clear()
        while self.network.under_way:  # noqa: ASYNC110 - time is simulated
            await asyncio.sleep(0.1)
        store = open_store(self.network, self.partitions, self.scripts)
        for partition in range(self.partitions):
            last = next(run_id for run_id in _ids(900) if partition_of(run_id, self.partitions) == partition)
            for name, run_id in zip(PROJECTS, (last, RunId(last[:-1] + "1")), strict=True):
                if partition_of(run_id, self.partitions) == partition:
                    await self.tell(store, run_id, "success", project_name=name, numbered=True)
        projector = Projector(store, PROJECTOR)
        while await projector._is_behind() or projector.entries_folded == 0:
            await projector.drain()

    def differences(self) -> list[str]:
        """Say what is wrong in the end."""
        dump = self.dump()
        log = b"".join(
            part
            for partition in range(self.partitions)
            for _, fields in dump.get(PartitionKeys(partition).events, [])
            for part in fields.values()
        )
        lost = [f"the acknowledged event {event_id!r} is lost" for event_id in self.acknowledged if event_id not in log]
        return [*self.wrong, *lost, *check(dump, self.partitions)]

    def dump(self) -> Dump:
        """Return what the server holds."""
        values = {
            key: [(row[1], dict(zip(row[2][::2], row[2][1::2], strict=True))) for row in value.entries]
            if isinstance(value, Stream)
            else value
            for key, value in self.server.keys.items()
        }
        return Dump(values=values, expiring=set(self.server.expires))


class SimulatedPeer(Peer):
    """A client that looks, at each push, whether what it is told can be read by then."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def send_frame(self, packed: bytes, kind: Any) -> None:
        told = msgspec.json.decode(packed)
        if told["type"] == "run" and told["run"]["status"] in TERMINAL:
            status = self._world.status_of(RunId(told["run"]["run_id"]))
            if status != told["run"]["status"]:
                self._world.wrong.append(f"pushed as {told['run']['status']} what is read as {status}")
        await super().send_frame(packed, kind)


async def _persist(ask: Callable[[], Awaitable[Any]]) -> Any:
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            await asyncio.sleep(0.02)


def _ids(first: int) -> Iterator[RunId]:
    return (run_id_of(number) for number in count(first))
