"""`runstore mcp`."""

import asyncio
import signal
from pathlib import Path

from runstore.cli.exits import Trouble
from runstore.cli.journal import to_stderr
from runstore.cli.target import Config, Token, Url, connect
from runstore.config import LogSettings

NOT_INSTALLED = "MCP is an extra of its own: pip install 'runstore[mcp]'"


def mcp(*, url: Url = None, token: Token = None, config: Config = None) -> int:
    """Serve the tools for agents over stdin and stdout, at a gateway. An agent host starts this; it ends with stdin."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # there is nothing to give back, and a read of stdin cannot be broken off
        signal.signal(number, signal.SIG_DFL)
    asyncio.run(_serve(url, token, config))
    return 0


async def _serve(url: str | None, token: str | None, config: Path | None) -> None:
    try:
        from runstore.mcp.stdio import serve
    except ImportError:
        raise Trouble(NOT_INSTALLED) from None
    from runstore.client.mcp_port import ClientPort

    to_stderr(LogSettings())
    async with connect(url, token, config) as client:
        await serve(ClientPort(client))
