"""One connection to a gateway, byte by byte: what is sent may be anything, what comes back must be HTTP/1.1."""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

WITHIN_S = 25.0
QUIET_S = 0.3
"""How long whatever was sent has, before an end of file follows: aiohttp drops what is under way when that comes."""

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d) [ -~]*")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)")


class NotHttp(Exception):
    """What came back is no answer."""


@dataclass(frozen=True)
class Answer:
    """One answer. `body` is None where it is a stream that goes on."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes | None

    @property
    def media(self) -> bytes:
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip()

    @property
    def closes(self) -> bool:
        return self.body is None or self.headers.get(b"connection", b"").lower() == b"close"


class HttpLine:
    """A connection that is made anew when it was closed."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self._address = address
        # each from an address of its own, so that no port is used up
        self._from = f"127.0.{1 + number // 250 % 250}.{1 + number % 250}"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def ask(self, raw: bytes, method: bytes = b"GET", *, ends: bool = False) -> list[Answer]:
        """Send bytes and read the answer to them; with `ends`, all of them, and end the file where nothing comes.

        Raises: NotHttp; TimeoutError where no answer comes; ConnectionError where the connection is closed without one.
        """
        if self._reader is not None and self._reader.at_eof():
            self.close()
        was_used = self._reader is not None
        try:
            return await self._ask(raw, method, ends=ends)
        except ConnectionError:
            # closed for idleness, or by what was sent before: whether this one is answered, a new connection shows
            if not was_used:
                raise
            return await self._ask(raw, method, ends=ends)

    async def _ask(self, raw: bytes, method: bytes, *, ends: bool) -> list[Answer]:
        answers: list[Answer] = []
        try:
            async with asyncio.timeout(WITHIN_S):
                reader, writer = await self._open()
                writer.write(raw)
                ending = asyncio.get_running_loop().call_later(QUIET_S, _end, writer) if ends else None
                while True:
                    answer = await read_answer(reader, method)
                    if answer.status in {100, 102, 103}:
                        continue
                    answers.append(answer)
                    if answer.closes or not ends or answer.status == 101:
                        break
                if ending is not None:
                    ending.cancel()
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.close()
            if answers:
                return answers
            raise ConnectionError(f"closed without an answer: {error!r}") from None
        except BaseException:
            self.close()
            raise
        if ends or answers[-1].closes or answers[-1].status == 101:
            self.close()
        return answers

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(
                *self._address, local_addr=(self._from, 0), limit=1 << 20
            )
        return self._reader, self._writer


def _end(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):
        writer.write_eof()


async def read_answer(reader: asyncio.StreamReader, method: bytes) -> Answer:
    """Read one answer, strictly. Raises: NotHttp; IncompleteReadError where nothing more comes."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise NotHttp(f"no status line: {first[:200]!r}")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise NotHttp(f"no header: {line[:200]!r}")
        headers[found[1].lower()] = found[2]
    code = int(status[1])
    if method == b"HEAD" or code in {101, 204, 304} or code < 200:
        return Answer(code, headers, b"")
    if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        return Answer(code, headers, None)
    if headers.get(b"transfer-encoding") == b"chunked":
        return Answer(code, headers, await _chunks(reader))
    if b"content-length" in headers:
        return Answer(code, headers, await reader.readexactly(int(headers[b"content-length"])))
    return Answer(code, headers, await reader.read())


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body
