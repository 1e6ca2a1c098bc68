"""Outputs, uncut: the full payload, streamed and in ranges, and one key of `outputs` as JSON."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import blake2b
from typing import Final

import msgspec
from aiohttp import web

from runstore.core.cap import CAP_BYTES
from runstore.core.errors import OutputNotFound, RunstoreError
from runstore.core.event import OutputRef
from runstore.core.run import Run
from runstore.gateway.answers import CACHE, CURSOR, JSON, catch_up
from runstore.gateway.context import CALLER, Services, principal_of, services_of
from runstore.gateway.headers import matches, read_range
from runstore.gateway.problems import HttpProblem

_IN_THREAD_FROM_BYTES: Final = 128 * 1024


class _Outputs(msgspec.Struct):
    outputs: msgspec.Raw = msgspec.Raw(b"null")


_WHOLE: Final = msgspec.json.Decoder(_Outputs)
_KEYS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def get_output(request: web.Request) -> web.StreamResponse:
    """Answer with the full payload of a run, or one range of it."""
    services = services_of(request)
    run, ref, cursor = await _load(request, services)
    etag = f'"o-{ref.token.hex()}"'
    headers = {"ETag": etag, CURSOR: cursor, "Cache-Control": CACHE, "Accept-Ranges": "bytes"}
    if matches(request, etag):
        return web.Response(status=304, headers=headers)
    wanted = read_range(request, ref.output_bytes, etag) if request.method == "GET" else None
    start, stop = wanted or (0, ref.output_bytes)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{ref.output_bytes}"
    response = web.StreamResponse(status=206 if wanted else 200, headers={"Content-Type": JSON, **headers})
    response.content_length = stop - start
    if request.method == "HEAD":
        await response.prepare(request)
        return response
    pieces = services.store.outputs.read(run.run_id, ref, start, stop)
    first = await anext(pieces)
    await response.prepare(request)
    await response.write(first)
    await _stream(request, services, response, pieces)
    return response


async def _stream(
    request: web.Request, services: Services, response: web.StreamResponse, pieces: AsyncIterator[bytes]
) -> None:
    try:
        async for piece in pieces:
            if not services.auth.still_valid(request[CALLER]):
                raise ConnectionResetError
            await response.write(piece)
    except (RunstoreError, ConnectionResetError):
        # half an answer was sent: only a cut connection tells that it is not the whole
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the output could not be sent whole") from None


async def get_named_output(request: web.Request) -> web.StreamResponse:
    """Answer with one key of a run's `outputs`, whole."""
    services, name = services_of(request), request.match_info["name"]
    run, ref, cursor = await _load(request, services)
    etag = f'"o-{ref.token.hex()}-{blake2b(name.encode(), digest_size=8).hexdigest()}"'
    headers = {"ETag": etag, CURSOR: cursor, "Cache-Control": CACHE}
    try:
        value = await read_named(services, run, ref, name)
    except OutputNotFound as error:
        raise _not_found(error, cursor) from None
    if matches(request, etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=value, headers={"Content-Type": JSON, **headers})


async def read_named(services: Services, run: Run, ref: OutputRef, name: str) -> bytes:
    """Read the JSON of one key of a run's `outputs`, whole.

    Raises: OutputNotFound, StoreUnavailable.
    """
    if ref.output_bytes > CAP_BYTES:
        async with services.big_outputs:
            value = await _pick(services, run, ref, name)
    else:
        value = await _pick(services, run, ref, name)
    if value is None:
        raise OutputNotFound(f"the run left no output named {name[:60]!r}")
    return value


async def _pick(services: Services, run: Run, ref: OutputRef, name: str) -> bytes | None:
    whole = await read_whole(services, run, ref)
    if len(whole) < _IN_THREAD_FROM_BYTES:
        return pick(whole, name)
    return await asyncio.to_thread(pick, whole, name)


async def read_whole(services: Services, run: Run, ref: OutputRef) -> bytes:
    """Read the full payload of a run.

    Raises: StoreUnavailable.
    """
    return b"".join([piece async for piece in services.store.outputs.read(run.run_id, ref, 0, ref.output_bytes)])


def pick(whole: bytes, name: str) -> bytes | None:
    """Return the JSON of one key of `outputs` (None: there is none by that name)."""
    outputs = bytes(_WHOLE.decode(whole).outputs)
    value = _KEYS.decode(outputs).get(name) if outputs.startswith(b"{") else None
    return bytes(value) if value is not None else None


async def _load(request: web.Request, services: Services) -> tuple[Run, OutputRef, str]:
    await catch_up(request, services)
    seen = services.tail.whole_cursor()
    record = await services.resolver.load(principal_of(request), request.match_info["run_id"])
    run = record.run
    cursor = services.cursor_text(run.run_id, seen)
    try:
        return run, await find_output(services, run), cursor
    except OutputNotFound as error:
        raise _not_found(error, cursor) from None


async def find_output(services: Services, run: Run) -> OutputRef:
    """Find what a run left: where it left none itself, what came after its end.

    Raises: OutputNotFound, StoreUnavailable.
    """
    ref = run.output
    if ref is None and run.is_terminal:
        fresh = await services.lookup.fresh(run.run_id)
        ref = fresh.run.late_output if fresh is not None else None
    if ref is None:
        raise OutputNotFound(
            "the run ended and left no output" if run.is_terminal else "the run has not ended: it has no output yet"
        )
    return ref


def _not_found(error: OutputNotFound, cursor: str) -> HttpProblem:
    # this too is an answer about a run: the client may wait from here on for what is missing
    return HttpProblem(error.code, error.detail, headers={CURSOR: cursor})
