"""What an agent is told that asks too often: without the SDK, whose part is most of the work.

A call of a tool gets a result, which an agent reads and acts on; any other message an error of JSON-RPC, with 429.
"""

from typing import Any

import msgspec
from aiohttp import web

from runstore.core.errors import RateLimited
from runstore.gateway.answers import JSON
from runstore.gateway.problems import respond_to
from runstore.mcp.failures import failure_of

TOO_OFTEN = -32000
"""A code that JSON-RPC leaves to servers."""


def refuse(message: Any, error: RateLimited) -> web.Response:
    """Answer a message that came too soon after others."""
    asked = message if isinstance(message, dict) else {}
    failure = failure_of(error)
    told: dict[str, Any] = {"jsonrpc": "2.0", "id": asked.get("id")}
    is_call = asked.get("method") == "tools/call" and asked.get("id") is not None
    if is_call:
        text = msgspec.json.encode(failure).decode()
        told["result"] = {
            "resultType": "complete",
            "content": [{"type": "text", "text": text}],
            "structuredContent": msgspec.to_builtins(failure),
            "isError": True,
        }
    else:
        told["error"] = {"code": TOO_OFTEN, "message": error.detail, "data": msgspec.to_builtins(failure)}
    response = respond_to(error)
    response.body, response.content_type = msgspec.json.encode(told), JSON
    if is_call:
        response.set_status(200)
    return response
