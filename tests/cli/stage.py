"""A gateway and a projector over a real server, in a thread of their own, for commands that run in this one."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from secrets import randbelow
from typing import Any, Self, TypeVar
from uuid import uuid4

import msgspec

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.principal import Scope
from runstore.core.token import COMBINATIONS, hash_token, make_token
from runstore.gateway import Gateway, GatewayConfig
from runstore.ports import TokenRecord
from runstore.projector import Projector

_T = TypeVar("_T")
WITHIN_S = 20.0


class Stage:
    """Where a command finds its gateway, and what a worker would do meanwhile."""

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self.token = make_token(randbelow(COMBINATIONS))
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def publish(self, run_id: str, status: str, **more: Any) -> str:
        """Publish a run's first event, and return when the run can be looked up."""

        async def work() -> None:
            await self.append(run_id, status, **more)
            await self.until_known(run_id)

        self.do(work())
        return run_id

    def ended(self, status: str = "success", **more: Any) -> str:
        """Return the id of a run that has ended."""
        run_id = str(uuid4())
        output = {"exit_code": 0, "stdout": "said\n", "stderr": "", "outputs": {"revenue": [1, 2]}}
        return self.publish(run_id, status, **({"output": output} if status == "success" else {}), **more)

    def serve(self, project: str) -> None:
        """Say that a worker serves a project."""
        self.do(self.store.served.register([project]))

    def log(self, run_id: str, *pieces: tuple[str, bytes]) -> None:
        """Write what a model writes."""
        self.do(self.store.logs.append_logs(RunId(run_id), list(pieces)))

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do something beside the gateway."""
        future: Future[_T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(WITHIN_S)

    def later(self, work: Coroutine[Any, Any, _T]) -> "Future[_T]":
        """Begin something beside the gateway."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def append(self, run_id: str, status: str, **more: Any) -> None:
        """Publish an event. Needs: the gateway's thread, as all that follows."""
        event = {"run_id": run_id, "status": status, "project_name": "forecasts", **more}
        await self.store.log.append(RunId(run_id), msgspec.json.encode(event))

    async def until_known(self, run_id: str) -> None:
        """Wait until a run can be looked up."""
        async with asyncio.timeout(WITHIN_S):
            while (await self.store.runs.get_many([RunId(run_id)]))[0] is None:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)

    async def until_awaited(self) -> None:
        """Wait until somebody listens for a run's news."""
        async with asyncio.timeout(WITHIN_S):
            while not self._gateway.services.tail.hub.interests:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)

    async def open(self) -> None:
        self.store = await RedisStore.connect(self.redis_url)
        record = TokenRecord(
            name="all", hash=hash_token(self.token), scopes=(Scope.ADMIN,), projects=None, created_at_s=0
        )
        await self.store.tokens.put(record)
        self._projector = Projector(self.store)
        self._gateway = Gateway(self.store, GatewayConfig(port=0, shutdown_s=0.5))
        await self._projector.start()
        await self._gateway.start()
        self.url = self._gateway.url

    async def close(self) -> None:
        await self._gateway.stop()
        await self._projector.stop()
        await self.store.aclose()

    def __enter__(self) -> Self:
        self._thread.start()
        self.do(self.open())
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WITHIN_S)
        self._loop.close()
