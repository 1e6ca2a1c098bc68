"""An event loop without time or network: what happens next is chosen by a seed, and time goes on when nothing else can.

Processes meet only where their messages do: at the server, and in their replies. So whatever a process does between
two messages is run at once and in order, as asyncio promises it, and the seed chooses among the messages that are under
way, of all processes, which one arrives next. Timers fire when time gets there, and now and then before a slow message.
"""

import asyncio
import heapq
import random
from asyncio import base_events
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import Any

Actor = str
ACTOR: ContextVar[Actor] = ContextVar("actor", default="world")
MOST_STEPS = 200_000
STEP_S = 0.0004
EARLY = 0.02
"""How often a timer fires although messages are under way."""


SLOW_S = 0.8
"""How long a slow message takes at most."""

_NETWORK = copy_context()
_NETWORK.run(ACTOR.set, "network")


class Stuck(Exception):
    """Nothing is under way and no timer is set, or it goes on for ever."""


class SimulatedLoop(base_events.BaseEventLoop):
    """One world's loop. `freeze` and `kill` stop an actor between two steps; `slow` is how often a message is."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.now_s = 0.0
        self.steps = 0
        self.slow = 0.0
        self._number = count()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._messages: list[tuple[Actor, Callable[[], None]]] = []
        self._held: dict[Actor, list[Callable[[], None]]] = {}
        self._held_timers: dict[Actor, list[asyncio.TimerHandle]] = {}
        self._dead: set[Actor] = set()
        self.is_over = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(_make_task)  # type: ignore[arg-type]
        self.plan: dict[int, Callable[[], None]] = {}

    def time(self) -> float:
        return self.now_s

    def send(self, actor: Actor, arrive: Callable[[], None], *, slow: float = 0.0) -> None:
        """Let a message be under way to an actor (`server` is one); `slow` is how often one of its kind is."""
        slow = max(slow, self.slow)
        if slow and self.chance.random() < slow:
            self.call_later(self.chance.random() * SLOW_S, self._messages.append, (actor, arrive), context=_NETWORK)
        else:
            self._messages.append((actor, arrive))

    def freeze(self, actor: Actor) -> None:
        """Stop an actor; what it sent goes on its way."""
        if actor not in self._dead:
            self._held.setdefault(actor, [])
            self._held_timers.setdefault(actor, [])

    def thaw(self, actor: Actor) -> None:
        """Let an actor go on, with all that has come for it meanwhile."""
        for arrive in self._held.pop(actor, ()):
            self.send(actor, arrive)
        for timer in self._held_timers.pop(actor, ()):
            self._keep(max(timer.when(), self.now_s), timer)

    def kill(self, actor: Actor) -> None:
        """Let an actor never do anything again."""
        self.thaw(actor)
        self._dead.add(actor)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._keep(when, timer)
        return timer

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run it here and now: a thread would be no part of the simulation."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def _keep(self, when: float, timer: asyncio.TimerHandle) -> None:
        heapq.heappush(self._timers, (when, next(self._number), timer))

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it where it is: it is dropped when its time comes."""

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        if not ready:
            self._go_on()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _go_on(self) -> None:
        """Let one thing happen."""
        if self._stopping:  # type: ignore[attr-defined]
            return
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Stuck("it goes on for ever")
        if act := self.plan.pop(self.steps, None):
            act()
        messages, chance = self._messages, self.chance.random()
        if messages and not (chance < EARLY and self._timers):
            place = int(self.chance.random() * len(messages))
            messages[place], messages[-1] = messages[-1], messages[place]
            actor, arrive = messages.pop()
            self.now_s += STEP_S
            if actor in self._held:
                self._held[actor].append(arrive)
            elif actor not in self._dead:
                arrive()
            return
        if not self._timers:
            if not self._ready:  # type: ignore[attr-defined]
                raise Stuck("nothing is under way")
            return
        when, _, timer = heapq.heappop(self._timers)
        if timer._cancelled:  # type: ignore[attr-defined]
            return
        self.now_s = max(self.now_s, when)
        actor = timer._context.get(ACTOR, "world")  # type: ignore[attr-defined]
        if actor in self._held:
            self._held_timers[actor].append(timer)
        elif actor not in self._dead:
            self._ready.append(timer)  # type: ignore[attr-defined]

    def _process_events(self, _: Any) -> None:
        """There is no network."""

    def _write_to_self(self) -> None:
        """There is no other thread."""

    def end(self) -> None:
        """Let every task end, and close: whatever was under way is lost, and no call gets an answer any more."""
        self.is_over, self.slow = True, 0.0
        self._messages.clear()
        self.plan.clear()
        for actor in list(self._held):
            self.thaw(actor)
        self._dead.clear()
        self.steps = 0
        for task in self.tasks:
            task.cancel()
        self.run_until_complete(asyncio.gather(*self.tasks, return_exceptions=True))
        self.tasks.clear()
        self.close()


def _make_task(loop: Any, coroutine: Any, context: Context | None = None) -> "asyncio.Task[Any]":
    task = asyncio.Task(coroutine, loop=loop, context=context)
    # or what was killed would be collected, and would run its last lines then
    loop.tasks.append(task)
    return task
