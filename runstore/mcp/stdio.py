"""The tools over stdin and stdout, for an agent host that starts us as its child."""

from mcp.server.stdio import stdio_server

from runstore.mcp.port import ToolPort
from runstore.mcp.server import make_server


async def serve(port: ToolPort) -> None:
    """Serve until stdin ends. Only the protocol goes to stdout; what else is written there meanwhile goes to stderr."""
    server = make_server(port)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())
