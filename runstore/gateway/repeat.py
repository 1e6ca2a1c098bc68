"""The shortest way: a request that differs from the one before it on its connection in nothing but the run id.

Clients repeat themselves: on a connection that stays, the head of each look-up is that of the last one, byte for byte,
with another run id in it. What those bytes mean has been read by then, and is not read again. Everything else is done
for each request as everywhere: its token must hold at that moment, the caller may look runs up, may see this one, and
does not ask too often. Whatever cannot be answered at once from what is kept takes the longer ways.

Bytes are taken for a repeat only between two requests, so that nothing that is half read can change their meaning: see
`read_head`.
"""

from typing import Final, NamedTuple

from aiohttp import HttpVersion11
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import RawRequestMessage

from runstore.core.errors import Forbidden, RateLimited, Unauthorized
from runstore.core.ids import RunId
from runstore.gateway.answers import CACHE, CURSOR, JSON
from runstore.gateway.auth import digest_of, read_bearer
from runstore.gateway.browsers import ALWAYS
from runstore.gateway.context import Services
from runstore.gateway.door import check_may
from runstore.gateway.route import Route
from runstore.gateway.shortcut import ASKED, is_plain
from runstore.request_id import HEADER as REQUEST_ID
from runstore.request_id import make as make_request_id

_START: Final = b"GET /v1/runs/"
_ID_END: Final = len(_START) + 36
_END_OF_HEAD: Final = b"\r\n\r\n"
_MOST_BYTES: Final = 64 * 1024
"""Longer answers go the longer ways, which wait for a peer that does not take them."""

_ANSWER: Final = (
    f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nCache-Control: {CACHE}\r\n"
    + "".join(f"{name}: {value}\r\n" for name, value in ALWAYS.items())
    + f"{REQUEST_ID}: %s\r\n{CURSOR}: %s\r\n"
    + "ETag: %s\r\nContent-Length: %d\r\nDate: %s\r\n%s\r\n"
)


class Head(NamedTuple):
    """The head of a plain look-up: what follows the run id in it, and the digest of its token."""

    rest: bytes
    digest: bytes

    def is_in(self, data: bytes) -> bool:
        """Whether some bytes are this head with any run id."""
        return len(data) == _ID_END + len(self.rest) and data.startswith(_START) and data.endswith(self.rest)


def may_be_head(data: bytes) -> bool:
    """Whether some bytes look like the whole head of a look-up."""
    return data.startswith(_START) and data.endswith(_END_OF_HEAD)


def read_head(data: bytes, message: object) -> Head | None:
    """Remember a head by the one message that aiohttp's parser gave when it was fed the bytes; None: it is not plain.

    The bytes must be what the message says and no more. So nothing was left in the parser before them, and nothing is
    after them: the very same bytes mean the very same when they come next.
    """
    if not isinstance(message, RawRequestMessage):
        return None  # it could not be read
    asked = ASKED.fullmatch(message.path)
    if asked is None or message.method != "GET" or message.version != HttpVersion11:
        return None
    if message.should_close or message.upgrade or message.chunked or not is_plain(message.headers):
        return None
    if REQUEST_ID in message.headers:
        return None  # it is another one each time
    rest = b" HTTP/1.1\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % field for field in message.raw_headers)
    if data != _START + asked[1].encode() + rest:
        return None
    try:
        return Head(rest, digest_of(read_bearer(message.headers)))
    except Unauthorized:
        return None


class Repeats:
    """Answer repeated look-ups of runs that have ended. `route` is that of `GET /v1/runs/{run_id}`."""

    __slots__ = ("_route", "_row", "_services")

    def __init__(self, services: Services, route: Route) -> None:
        self._services = services
        self._route = route
        self._row = services.counts.row(route)

    def answer(self, head: Head, data: bytes) -> bytes | None:
        """Answer at once; None where that cannot be. Needs: that the head is in the data."""
        services = self._services
        # first, so that the work of letting in tells nothing of which runs there are
        caller = services.auth.known(head.digest)
        if caller is None:
            return None
        principal = caller.principal
        run_id = RunId(data[len(_START) : _ID_END].decode("latin-1"))
        place, kept = services.tail.whole_cursor(), services.lookup.kept(run_id)  # kept by the id in full
        if kept is None or len(kept.body) > _MOST_BYTES or not principal.may_see(kept.record.run.project_name, run_id):
            return None
        try:
            check_may(principal, self._route)
            rate = services.rates.spend_and_tell(principal)
        except (Forbidden, RateLimited):
            return None  # nothing was spent: whoever tells of it counts it
        self._row[2] += 1
        at = services.cursor_text(run_id, place)
        told = make_request_id(), at, kept.etag, len(kept.body), rfc822_formatted_time(), rate
        return (_ANSWER % told).encode() + kept.body
