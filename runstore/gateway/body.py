"""Bodies of requests, read within their limits of size and time."""

import asyncio
from typing import Final

from aiohttp import HttpVersion11, web

from runstore.core.errors import PayloadTooLarge, RateLimited
from runstore.gateway.context import Services
from runstore.gateway.problems import HttpProblem

_RESERVE_LEAST: Final = 64 * 1024


class Reserve:
    """The bytes of all bodies that are being read, so that many large ones together are bounded too."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0

    def take(self, size: int) -> None:
        """Take room.

        Raises: RateLimited where there is none.
        """
        if self._held_bytes and self._held_bytes + size > self._limit_bytes:
            raise RateLimited("too many large bodies are being received at this moment: try again")
        self._held_bytes += size

    def give_back(self, size: int) -> None:
        """Give room back."""
        self._held_bytes -= size


async def read_body(request: web.Request, services: Services, limit_bytes: int) -> bytes:
    """Read a whole body.

    Raises: PayloadTooLarge; HttpProblem for one that comes too slowly (408) or in pieces that are none (400).
    """
    announced = request.content_length
    if announced is not None and announced > limit_bytes:
        raise PayloadTooLarge(f"a body of {announced} bytes is over the limit of {limit_bytes}")
    config, room = services.config, _RESERVE_LEAST if announced is None else announced
    services.reserve.take(room)
    body = bytearray()
    try:
        await _ask_to_continue(request)
        async with asyncio.timeout(config.body_timeout_s):
            while True:
                async with asyncio.timeout(config.body_idle_s):
                    piece = await request.content.readany()
                if not piece:
                    return bytes(body)
                body += piece
                if len(body) > limit_bytes:
                    raise PayloadTooLarge(f"the body is over the limit of {limit_bytes} bytes")
                if len(body) > room:
                    services.reserve.take(len(body))
                    room += len(body)
    except TimeoutError:
        raise HttpProblem("request_timeout", "the body did not arrive in time", close=True) from None
    except (web.RequestPayloadError, web.HTTPException, ValueError) as error:
        raise HttpProblem("bad_request", f"the body cannot be read: {type(error).__name__}", close=True) from None
    finally:
        services.reserve.give_back(room)


async def let_wait(_: web.Request) -> None:
    """Leave a client that expects `100 Continue` waiting: it is told so only once its body is wanted."""


async def _ask_to_continue(request: web.Request) -> None:
    if "Expect" in request.headers and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # as aiohttp does it: what was written is no part of the answer
        request.writer.output_size = 0
