"""Requests as no client sends them: odd words in good frames, broken heads, and frames that can be read in two ways."""

from dataclasses import dataclass
from random import Random
from urllib.parse import quote

from tests.attack import odd
from tests.attack.site import ATTACKED, HEALTHY, Site

RESTS = (
    "",
    "/output",
    "/output/revenue",
    "/output/a/b",
    "/output/{}",
    "/events",
    "/logs",
    "/cancel",
    "/token",
    "/transitions",
    "/{}",
)
QUERY = (
    "project_name",
    "status",
    "commit_sha",
    "tag",
    "created_after",
    "created_before",
    "finished_after",
    "limit",
    "cursor",
    "after",
    "x",
    "Authorization",
    "token",
)
METHODS = (b"GET",) * 8 + (b"POST",) * 6 + (b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"BREW", b"get")
HEADERS = (
    b"Prefer", b"If-None-Match", b"Range", b"If-Range", b"Origin", b"Accept", b"Content-Encoding", b"Expect",
    b"Upgrade",
    b"Idempotency-Key", b"Host", b"Cookie", b"Last-Event-ID", b"Content-Type", b"Sec-WebSocket-Protocol",
    b"traceparent",
    b"Accept-Encoding", b"Access-Control-Request-Method", b"X-Forwarded-For", b"X-HTTP-Method-Override",
    b"Connection", b"TE",
    b"Authorization", b"Referer", b"Mcp-Session-Id", b"X-\xff", b"A" * 300, b"Content-Length", b"Transfer-Encoding",
)  # fmt: skip
FRAMING = {b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"}
VALUES = (
    b"*", b'"x', b'W/"', b'W/"a", "b", *', b"bytes=0-", b"bytes=-1", b"bytes=5-1", b"bytes=0-1,3-4",
    b"bytes=" + b"9" * 30 + b"-",
    b"bytes=a-b", b"wait=1", b"wait=0", b"wait=-1", b"wait=1e9", b"wait", b"wait=1, wait=2", b'wait="1"',
    b"respond-async",
    b"100-continue", b"200-maybe", b"null", b"http://127.0.0.1", b"http://evil.example", b"http://[::1", b"file://",
        b"text/event-stream",
    b"text/html", b"application/json;q=0", b"*/*;q=x", b"gzip, br", b"gzip", b"identity",
    b"application/json; charset=utf-16",
    b"text/plain", b"multipart/form-data; boundary=x", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", b"ff-x",
    b"websocket", b"h2c",
    b"Bearer", b"Bearer ", b"Basic eDp5", b"Bearer a b", b"keep-alive, close", b"trailers", b"\xc3\xa9", b"\xff\xfe",
    b"a\tb", b"",
    b"PUT", b"chunked", b"-1", b"0", b"x" * 4000,
)  # fmt: skip
RUN = {
    "project_name": ATTACKED,
    "inputs": {"a": 1},
    "mode": "async",
    "timeout_s": 5,
    "queue_timeout_s": 1,
    "commit_sha": "abc1234",
    "branch": "main",
    "tags": ["a"],
}
EVENT = {"status": "running", "project_name": ATTACKED, "at": "2026-04-28T10:00:00+00:00", "attempt": 1,
"error_message": "x",
         "output": {"stdout": "a", "outputs": {"b": 1}}, "event_id": "e", "tags": ["t"],
         "progress": {"fraction": 0.5}, "worker": "w"}  # fmt: skip


@dataclass(frozen=True)
class Input:
    """One input. `path` is None where nobody can tell which address it means; `ends`: nothing follows it."""

    raw: bytes
    method: bytes = b"GET"
    path: str | None = None
    ends: bool = False
    is_admin: bool = False
    may_be_cut: bool = False
    most_answers: int = 1


def draw(site: Site, random: Random) -> Input:
    """Draw one input."""
    kind = random.random()
    if kind < 0.72:
        return words(site, random)
    return head(site, random) if kind < 0.86 else frame(site, random)


def words(site: Site, random: Random) -> Input:
    """Draw a request in a good frame, whose words are odd."""
    path = address(site, random)
    method = random.choice(METHODS) if random.random() < 0.25 else _method(random, path)
    is_admin = random.random() < 0.2
    token = site.tokens["admin" if is_admin else random.choice(("bound", "bound", "bound", "reader", "nobody"))]
    lines = [b"Host: 127.0.0.1", b"Authorization: Bearer " + token.encode()]
    for _ in range(random.choice((0, 0, 1, 2))):
        name = random.choice(HEADERS)
        if name.lower() not in FRAMING:
            lines.append(name + b": " + random.choice(VALUES))
    payload = body(random, path) if method in {b"POST", b"PUT", b"PATCH"} else b""
    if payload or method == b"POST":
        lines += [b"Content-Type: application/json"] * (random.random() < 0.95)
        lines.append(b"Content-Length: %d" % len(payload))
    raw = method + b" " + path + b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + payload
    return Input(raw, method, path.decode("latin-1").partition("?")[0], is_admin=is_admin)


def _method(random: Random, path: bytes) -> bytes:
    last = path.partition(b"?")[0].rpartition(b"/")[2]
    if last in {b"cancel", b"token", b"transitions"} or (last == b"runs" and random.random() < 0.5):
        return b"POST"
    return b"GET"


def address(site: Site, random: Random) -> bytes:
    """Draw a request target."""
    kind = random.random()
    if kind < 0.25:
        path = "/v1/runs"
    elif kind < 0.9:
        run_id = random.choice((*site.known, *site.hidden))
        spelt = random.choice((run_id, run_id, run_id[: random.randrange(1, 36)], run_id.upper(), odd.text(random)))
        path = "/v1/runs/" + _quoted(random, spelt) + random.choice(RESTS).format(_quoted(random, odd.text(random)))
    else:
        path = random.choice(
            (
                "/",
                "/healthz",
                "/readyz",
                "/v1/openapi.json",
                "/v1/ws",
                "/v1",
                "/v1/",
                "//v1/runs",
                "/V1/runs",
                "/v1/../v1/runs",
                "/metrics",
                "/.env",
                "*",
                "/" + _quoted(random, odd.text(random)),
            )
        )
    query = "&".join(
        f"{random.choice(QUERY)}{random.choice(('=', '=', '=', ''))}{_quoted(random, odd.text(random))}"
        for _ in range(random.choice((0, 0, 0, 1, 1, 2, 5)))
    )
    raw = (path + ("?" + query if query else "")).encode("utf-8", "surrogatepass")
    return raw.replace(b" ", b"%20").replace(b"\r", b"%0d").replace(b"\n", b"%0a")[:12_000] or b"/"


def _quoted(random: Random, text: str) -> str:
    return (
        quote(text, safe="", errors="replace")
        if random.random() < 0.93
        else text.replace("#", "%23").replace("?", "%3F")
    )


def body(random: Random, path: bytes) -> bytes:
    """Draw the body of a request."""
    kind = random.random()
    if kind < 0.06:
        return odd.deep(random)
    if kind < 0.1:
        return odd.written(odd.value(random))
    if kind < 0.13:
        return random.choice(
            (
                b"",
                b"\xff\xfe{\x00}\x00",
                b"\xef\xbb\xbf{}",
                b"{" * 5,
                b'{"a":1}{"a":2}',
                b"\x1f\x8b\x08\x00",
                b"0" * 5000,
            )
        )
    good = dict(EVENT if b"transitions" in path else RUN)
    if b"transitions" not in path and random.random() < 0.05:
        good["project_name"] = random.choice(("secrets", HEALTHY + "x", "no such"))
    return odd.mutated_json(random, good)


def head(site: Site, random: Random) -> Input:
    """Draw a request whose head is broken, or too large."""
    good = words(site, random)
    kind = random.randrange(10)
    line, _, rest = good.raw.partition(b"\r\n")
    if kind == 0:
        raw = odd.mutated(random, line) + b"\r\n" + rest
    elif kind == 1:
        raw = (
            random.choice(
                (
                    b"GET / HTTP/9.9",
                    b"GET /",
                    b"GET  / HTTP/1.1",
                    b"GET / HTTP/1.1 x",
                    b"/ GET HTTP/1.1",
                    b"\x00",
                    b"\x16\x03\x01\x02\x00",
                    b"GET http://[::1 HTTP/1.1",
                    b"CONNECT a:1 HTTP/1.1",
                    b"PRI * HTTP/2.0",
                    b"GET / HTTP/1.0",
                    b"GET / HTTP/2.0",
                    b"GET / HTTP/0.9",
                )
            )
            + b"\r\n"
            + rest
        )
    elif kind == 2:
        raw = (
            line + b"\r\nX: " + random.choice((b"y" * 17_000, b"\x00", b"\x01\x7f", b"a\nb", b"a\rb")) + b"\r\n" + rest
        )
    elif kind == 3:
        raw = line + b"\r\n" + b"X: y\r\n" * random.choice((60, 64, 200)) + rest
    elif kind == 4:
        raw = (
            line
            + b"\r\n"
            + random.choice((b"no colon", b": no name", b"a b: c", b" folded", b"X :y", b"X\x00: y", b"(x): y"))
            + b"\r\n"
            + rest
        )
    elif kind == 5:
        raw = b"GET /" + b"x" * random.choice((15_000, 16_384, 70_000)) + b" HTTP/1.1\r\n" + rest
    elif kind == 6:
        raw = (
            line
            + b"\r\n"
            + random.choice((b"Host: a\r\nHost: b", b"Host: a b", b"Host:", b"Host: \xff", b"Host: [::1"))
            + b"\r\n"
            + rest
        )
    elif kind == 7:
        raw = odd.mutated(random, good.raw)
    elif kind == 8:
        raw = random.randbytes(random.randrange(1, 300)) + b"\r\n\r\n"
    else:
        raw = good.raw.replace(b"\r\n", b"\n")
    # whatever became of its framing: nothing more comes, and more answers than one may
    return Input(raw, good.method, ends=True, is_admin=good.is_admin, may_be_cut=True, most_answers=1000)


def frame(site: Site, random: Random) -> Input:
    """Draw a request whose length is told wrongly, in two ways, or not at all; a smuggled one is never answered."""
    token = site.tokens["bound"].encode()
    inner = b"GET /healthz HTTP/1.1\r\nHost: smuggled\r\n\r\n"
    start = (
        b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n" % token
    )
    good = b'{"project_name":"no such"}'
    shapes = (
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(inner)) + inner,
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1a\r\n" + good + b"\r\n0\r\n\r\n",
        b"Content-Length: 26\r\nContent-Length: 27\r\n\r\n" + good + inner,
        b"Content-Length: 26, 27\r\n\r\n" + good + inner,
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner,
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + inner,
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + inner,
        b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + inner,
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + inner,
        b"Content-Length: +26\r\n\r\n" + good + inner,
        b"Content-Length: -1\r\n\r\n" + inner,
        b"Content-Length: 0x1a\r\n\r\n" + good + inner,
        b"Content-Length: 2_6\r\n\r\n" + good + inner,
        b"Content-Length: \xb2\xb6\r\n\r\n" + good + inner,
        b"Content-Length: " + b"9" * 30 + b"\r\n\r\n" + good,
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + good + b"\r\n0\r\n\r\n" + inner,
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + good + b"\r\n0\r\n\r\n" + inner,
        b"Transfer-Encoding: chunked\r\n\r\n0x1a\r\n" + good + b"\r\n0\r\n\r\n" + inner,
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1a\r\n" + good,
        b"Transfer-Encoding: chunked\r\n\r\n1a;" + b"x" * 20_000 + b"\r\n" + good + b"\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1a\r\n" + good + b"XX0\r\n\r\n" + inner,
        b"Transfer-Encoding: chunked\r\n\r\n1a\r\n" + good + b"\r\n0\r\n" + b"T: x\r\n" * 200 + b"\r\n",
    )
    kind = random.random()
    if kind < 0.5:
        # one answer and a closed door: what follows is part of what was refused
        return Input(start + random.choice(shapes), b"POST", ends=True, may_be_cut=True, most_answers=1)
    cut = random.choice(
        (
            b"Content-Length: 1000\r\n\r\n" + good,
            b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + good,
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"Content-Length: 26\r\n\r\n",
        )
    )
    if kind < 0.9:
        whole = start + cut
        return Input(
            whole[: random.randrange(20, len(whole))] if random.random() < 0.5 else whole,
            b"POST",
            ends=True,
            may_be_cut=True,
        )
    follows = b"Content-Length: 5\r\n\r\n" + good
    return Input(start + follows, b"POST", ends=True, may_be_cut=True, most_answers=2)
