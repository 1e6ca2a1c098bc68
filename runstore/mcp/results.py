"""Results of calls: the JSON of an answer, as text for every host and structured for those that take it."""

import mcp_types as types
import msgspec

from runstore.mcp.failures import Failure


def answered(body: bytes) -> types.CallToolResult:
    """Make the result of a call that went well, out of its JSON."""
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=body.decode())], structured_content=msgspec.json.decode(body)
    )


def failed(failure: Failure) -> types.CallToolResult:
    """Make the result of a call that did not."""
    result = answered(msgspec.json.encode(failure))
    result.is_error = True
    return result
