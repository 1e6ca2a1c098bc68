"""Scripts of runstore.js in Node, each a process of its own that tells what it hears line by line."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

MODULE = Path(str(files("runstore.gateway"))) / "static" / "runstore.js"
QUICK = "{ retryForS: 20, backoffS: 0.02, maxBackoffS: 0.1, putOffS: 0.02, streamPatienceS: 0.5 }"
_HEAD = """
import { Client, RunstoreError, isTerminal } from %s;
const [url, token, ...told] = JSON.parse(process.env.TOLD);
const say = (what) => console.log(JSON.stringify(what));
const client = new Client(url, { token, ...%s });
"""


def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed: install Node 20 or later to test runstore.js in it")
    major = int(
        subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout[1:].split(".")[0]
    )
    if major < 20:
        pytest.skip(f"node is version {major}: install Node 20 or later to test runstore.js in it")
    return found


class Script:
    """A script that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def hear(self) -> Any:
        """Return the next thing that the script says."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 40)
        if not line:
            assert self.process.stderr is not None
            raise AssertionError((await self.process.stderr.read()).decode() or "the script has ended")
        return json.loads(line)

    async def rest(self) -> list[Any]:
        """Return all that the script says until it ends by itself, and without complaint."""
        out, complained = await asyncio.wait_for(self.process.communicate(), 40)
        assert (self.process.returncode, complained.decode()) == (0, "")
        return [json.loads(line) for line in out.splitlines()]


@asynccontextmanager
async def script(text: str, *told: Any, websocket: bool = True, config: str = "{}") -> AsyncIterator[Script]:
    """Run a script that knows `url`, `token`, what else it was `told`, a `client` and how to `say` something."""
    head = _HEAD % (json.dumps(MODULE.as_uri()), f"{{...{QUICK}, ...{config}}}")
    flags = ["--experimental-websocket"] if websocket else ["--no-experimental-websocket"]
    process = await asyncio.create_subprocess_exec(
        *(node(), "--no-warnings", *flags, "--input-type=module", "--eval", head + text),
        env={"TOLD": json.dumps(told)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    try:
        yield Script(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
