"""Faults injected into a site as a plan says, and healed again."""

import asyncio
import random
import signal
from collections import defaultdict
from contextlib import AsyncExitStack, suppress
from time import monotonic
from typing import Any, Final

import redis

from tests.chaos.history import History
from tests.chaos.plan import NETWORK, Fault, Kind
from tests.chaos.server import Server
from tests.chaos.several import Several
from tests.chaos.site import Site

_LOAD_DELAY_US: Final = 300


class Injector:
    """Does what the plan says, and counts it."""

    def __init__(self, site: Site, history: History) -> None:
        self.done: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.bytes_cut = 0
        self._site = site
        self._history = history
        self._chance = random.Random(site.shape.seed)
        self._killed: set[str] = set()
        self._one_at_a_time: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def play(self, plan: list[Fault]) -> None:
        """Inject every fault at its time, and return when all are healed."""
        began = monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in plan:
                await asyncio.sleep(max(0.0, began + fault.at_s - monotonic()))
                group.create_task(self._befall(fault))

    async def supervise(self) -> None:
        """Start again what ended by itself, as an init system would; none of our services should."""
        while True:
            await asyncio.sleep(0.2)
            for name, role in self._site.roles.items():
                if role.pid is None and name not in self._killed:
                    word = f"{name.partition('-')[0]} ended by itself"
                    self.ended[word] = self.ended.get(word, 0) + 1
                    self._history.hear("chaos", "ended-by-itself", detail=name)
                    self._site.again(name)

    async def _befall(self, fault: Fault) -> None:
        # what took longer than planned is waited for
        befallen = self._site.publishers if fault.kind is Kind.SPOOL_POWER else [fault.role]
        async with AsyncExitStack() as held:
            for role in sorted(befallen):
                await held.enter_async_context(self._one_at_a_time[role])
            await self._inject(fault)

    async def _inject(self, fault: Fault) -> None:
        word = f"{fault.kind} of {fault.role.partition('-')[0]}"
        self.done[word] = self.done.get(word, 0) + 1
        self._history.hear("chaos", "fault", detail=f"{fault.kind} {fault.role} {fault.for_s}")
        if fault.kind in NETWORK:
            proxy = self._site.proxies[fault.role]
            proxy.hurt(fault.kind, fault.amount)
            await asyncio.sleep(fault.for_s)
            proxy.heal()
        else:
            await getattr(self, "_" + fault.kind.replace("-", "_"))(fault)
        self._history.hear("chaos", "healed", detail=f"{fault.kind} {fault.role}")

    async def _kill(self, fault: Fault) -> None:
        self._killed.add(fault.role)
        await asyncio.to_thread(self._site.kill, fault.role)
        await asyncio.sleep(fault.for_s)
        self._site.again(fault.role)
        self._killed.discard(fault.role)

    async def _freeze(self, fault: Fault) -> None:
        await asyncio.to_thread(self._site.signal, fault.role, signal.SIGSTOP)
        await asyncio.sleep(fault.for_s)
        self._site.signal(fault.role, signal.SIGCONT)

    async def _power(self, fault: Fault) -> None:
        self._site.kill("redis")
        self.bytes_cut += self._site.machine.cut()
        await asyncio.sleep(fault.for_s)
        self._site.again("redis")

    async def _spool_power(self, fault: Fault) -> None:
        """Cut the power of the machine that all publishers are on, since they share its disk."""
        self._killed |= set(self._site.publishers)
        for name in self._site.publishers:
            self._site.signal(name, signal.SIGCONT)
            self._site.kill(name)
        self.bytes_cut += self._site.spool_machine.cut()
        await asyncio.sleep(fault.for_s)
        for name in self._site.publishers:
            if self._site.roles[name].pid is None:
                self._site.again(name)
        self._killed -= set(self._site.publishers)

    async def _disk_full(self, fault: Fault) -> None:
        """Let the spool's disk be full while Redis is away, for else nobody would notice."""
        self._site.kill("redis")
        await asyncio.sleep(fault.for_s / 3)
        self._site.spool_machine.fill(True)
        await asyncio.sleep(fault.for_s / 3)
        self._site.spool_machine.fill(False)
        await asyncio.sleep(fault.for_s / 3)
        self._site.again("redis")

    async def _fail_over(self, _: Fault) -> None:
        """Demote a primary, which lives on."""
        assert isinstance(self._site.server, Several)
        await asyncio.to_thread(self._site.server.fail_over)

    async def _clock(self, fault: Fault) -> None:
        self._site.machine.step((fault.amount - 0.5) * 7200)
        await asyncio.sleep(fault.for_s)
        self._site.machine.step(0)

    async def _oom(self, fault: Fault) -> None:
        await self._tell("CONFIG", "SET", "maxmemory", "1mb")
        await asyncio.sleep(fault.for_s)
        await self._tell("CONFIG", "SET", "maxmemory", "0")

    async def _script_flush(self, _: Fault) -> None:
        await self._tell("SCRIPT", "FLUSH", "SYNC")

    async def _loading(self, fault: Fault) -> None:
        """Kill Redis, and let it take some seconds to load its data."""
        server = self._single
        server.kill()
        server.key_load_delay_us = _LOAD_DELAY_US
        server.start()
        server.key_load_delay_us = 0
        await asyncio.sleep(fault.for_s)
        while await self._tell("CONFIG", "SET", "key-load-delay", "0") is None:
            if server.pid is None:
                return
            await asyncio.sleep(0.05)  # it listens now and then while it loads

    @property
    def _single(self) -> Server:
        assert isinstance(self._site.server, Server)
        return self._site.server

    async def _poison(self, fault: Fault) -> None:
        """Put an entry of the largest id, or of one to come, into a partition's log, and let doctor mend it."""
        partition = self._chance.randrange(self._site.partitions)
        seconds, _ = await self._tell("TIME") or (0, 0)
        entry = f"{2**64 - 1}-{2**64 - 1}" if fault.amount < 0.5 else f"{int(seconds) * 1000 + 86_400_000}-0"
        await self._tell("XADD", f"runstore:{{{partition}}}:events", entry, "poison", "x")
        await asyncio.sleep(fault.for_s)
        await self._site.mend()

    async def _tell(self, *words: str) -> Any:
        """Send a command around the proxies; nothing where Redis is away at the moment."""

        def tell() -> Any:
            with suppress(redis.RedisError, OSError), self._single.client() as client:
                return client.execute_command(*words)
            return None

        return await asyncio.to_thread(tell)
