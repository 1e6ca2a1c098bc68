"""A whole site of real processes over a Redis that dies and comes back: a gateway, a projector, a worker."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.cli.processes import Started, started
from tests.faults.lives import TOKEN, Lives, let_in

SOON_S: Final = 60.0
"""How long anything may take before a test gives up."""

_MODEL: Final = """
[projects.mine]
repository = "./model"
command = ["sh", "-c", "echo '{{}}' > $RUNSTORE_OUTPUTS; while [ ! -e {folder}/go ]; do sleep 0.05; done"]
attempts = {attempts}
"""


class Site:
    """What runs, and how to talk to it. Made by `site`."""

    def __init__(self, folder: Path, redis_url: str, stack: ExitStack) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.lives: Lives
        self._stack = stack
        self.processes: list[Started] = []
        self.http: aiohttp.ClientSession

    def start(self, role: str, *words: str, redis_url: str | None = None, **env: str) -> Started:
        """Start a role in a folder of its own."""
        folder = self.folder / f"{role}-{len(self.processes)}"
        folder.mkdir()
        words = (role, "--redis-url", redis_url or self.redis_url, *words)
        process = self._stack.enter_context(started(*words, folder=folder, RUNSTORE_CONFIG=str(self._config()), **env))
        self.processes.append(process)
        return process

    def start_gateway(self, port: int = 0, **env: str) -> Started:
        self.gateway = self.start("gateway", "--port", str(port), **env)
        return self.gateway

    def let_runs_end(self) -> None:
        """Let the model's runs come to their end."""
        (self.folder / "go").touch()

    @property
    def all_live(self) -> bool:
        return all(process.process.poll() is None for process in self.processes)

    async def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Ask the gateway; return the status, the body and the headers."""
        told = {"Authorization": f"Bearer {TOKEN}", **headers}
        method = "GET" if body is None else "POST"
        async with self.http.request(method, self.gateway.url + path, json=body, headers=told) as answer:
            return answer.status, await answer.json(content_type=None), dict(answer.headers)

    @asynccontextmanager
    async def socket(self) -> AsyncIterator["Socket"]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with self.http.ws_connect(
            self.gateway.url + "/v1/ws", headers=headers, protocols=("runstore.v1",), heartbeat=10
        ) as ws:
            yield Socket(ws)

    def _config(self) -> Path:
        path = self.folder / "runstore.toml"
        if not path.exists():
            import subprocess

            model = self.folder / "model"
            model.mkdir()
            who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
            for words in (("init", "-q", "-b", "main"), (*who, "commit", "-q", "--allow-empty", "-m", "Begin")):
                subprocess.run(["git", "-C", model, *words], check=True, timeout=20)
            path.write_text(_MODEL.format(folder=self.folder, attempts=2))
        return path


class Socket:
    """A websocket of a client that waits no longer than it must."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def subscribe(self, subscription_id: str, **message: Any) -> dict[str, Any]:
        await self.ws.send_str(json.dumps({"type": "subscribe", "id": subscription_id, **message}))
        return await self.hear("subscribed")

    async def hear(self, kind: str) -> dict[str, Any]:
        """Return the next message of a kind, passing over the others."""
        async with asyncio.timeout(SOON_S):
            while True:
                message = await self.ws.receive()
                assert message.type is aiohttp.WSMsgType.TEXT, f"closed with {self.ws.close_code}, not told {kind}"
                told: dict[str, Any] = json.loads(message.data)
                if told["type"] == kind:
                    return told


@asynccontextmanager
async def site(folder: Path, redis_url: str | None = None) -> AsyncIterator[Site]:
    """Hold a site over a Redis; without an address it is one of its own, with lives."""
    with ExitStack() as stack:
        lives = stack.enter_context(Lives(folder / "redis")) if redis_url is None else None
        made = Site(folder, lives.url if lives is not None else redis_url or "", stack)
        if lives is not None:
            made.lives = lives
        await let_in(made.redis_url)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SOON_S)) as http:
            made.http = http
            yield made
