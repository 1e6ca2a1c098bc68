"""The websocket: messages that Hypothesis makes, valid and broken, then frames as no client sends them.

An input is one message or one odd frame. After the messages of a connection comes a word that must be answered, so
that none before it can have made the gateway deaf.
"""

import asyncio
import base64
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.attack import odd
from tests.attack.attack import Attack, Plan, Tally, each
from tests.attack.http_line import QUIET_S, NotHttp
from tests.attack.pool import JSON, pool, size_for, spoilt
from tests.attack.site import ATTACKED, SECRET, Site
from tests.attack.ws_line import BINARY, CLOSE, PING, PONG, TEXT, NotWebsocket, WsLine, frame

MESSAGES = 18
AT_ONCE = 32
TYPES = {"subscribed", "run", "progress", "done", "error", "reset"}
CODES = {1000, 1001, 1002, 1003, 1005, 1006, 1007, 1009, 1013}
"""How a connection may be closed: 1011 is the gateway's own failure, and 4401 is for tokens that end."""


def messages(site: Site, seed: int, size: int) -> list[Any]:
    """Have Hypothesis make messages."""
    ids = (
        st.sampled_from((*site.known, *site.hidden))
        | st.uuids().map(str)
        | st.text("0123456789abcdef-", max_size=36)
        | st.text(max_size=5)
    )
    subscription = st.sampled_from("abcdefgh") | st.text(max_size=130)
    subscribe = spoilt(
        {
            "type": st.just("subscribe"),
            "id": subscription,
            "run_ids": st.lists(ids, min_size=1, max_size=6),
            "events": st.sampled_from(("terminal", "all")),
            "output": st.booleans(),
            "cursor": st.text(max_size=20)
            | st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode()),
        },
        required=("type", "id", "run_ids"),
    )
    of_project = spoilt(
        {
            "type": st.just("subscribe"),
            "id": subscription,
            "project_name": st.sampled_from((ATTACKED, SECRET, "no such")),
            "events": st.sampled_from(("terminal", "all")),
        },
        required=("type", "id", "project_name"),
    )
    unsubscribe = spoilt({"type": st.just("unsubscribe"), "id": subscription}, required=("type", "id"))
    return pool(st.one_of(subscribe, subscribe, of_project, unsubscribe, JSON), size, seed)


def odd_frames(random: Random) -> tuple[bytes, int | None]:
    """Draw frames that break a rule, or nearly, and the code that they must be closed with, where it is sure."""
    word = b'{"type":"unsubscribe","id":"x"}'
    payload = random.choice((b"", word, b"x" * 125, b"\xff\xfe", b"\xed\xa0\x80"))
    make, code = random.choice(
        (
            (lambda: frame(BINARY, payload), 1003),
            (lambda: frame(TEXT, b"\xff" + payload), 1007),
            (lambda: frame(TEXT, word, masked=False), None),
            (lambda: frame(TEXT, word, rsv=random.randrange(1, 8)), 1002),
            (lambda: frame(random.choice((3, 4, 7, 11, 15)), payload), 1002),
            (lambda: frame(0, payload), 1002),
            (lambda: frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
            (lambda: frame(TEXT, b"{", fin=False) + frame(0, b" ", fin=False) * 3000 + frame(0, b"}"), None),
            (lambda: frame(TEXT, b"x" * 1000, fin=False) * 200, None),
            (lambda: frame(TEXT, b"x", fin=False) + frame(0, b"x" * 1000, fin=False) * 200, 1009),
            (lambda: frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 3000, None),
            (lambda: frame(TEXT, b" " * random.choice((65_536 + 1, 131_072, 200_000))), 1009),
            (lambda: frame(TEXT, b"", length=random.choice((2**20, 2**31, 2**63 - 1))), 1009),
            (lambda: frame(TEXT, b"", length=2**63), None),
            (lambda: frame(PING, b"p" * random.choice((0, 1, 125))) * random.choice((1, 500)), None),
            (lambda: frame(PONG, b"never asked") * random.choice((1, 500)), None),
            (lambda: frame(PING, b"p" * 126), 1002),
            (lambda: frame(PING, b"p", fin=False), 1002),
            (lambda: frame(CLOSE, b""), None),
            (lambda: frame(CLOSE, b"\x03"), 1002),
            (lambda: frame(CLOSE, random.choice((999, 1004, 1005, 1006, 1015, 2999, 65535, 0)).to_bytes(2)), None),
            (lambda: frame(CLOSE, b"\x03\xe8\xff\xfe"), 1007),
            (lambda: frame(CLOSE, b"\x03\xe8") + frame(TEXT, word) * 50, None),
            (lambda: random.randbytes(random.randrange(1, 200)), None),
            (lambda: frame(TEXT, word)[: random.randrange(1, 20)], None),
            (lambda: b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", None),
            (lambda: odd.mutated(random, frame(TEXT, word) * 3), None),
        )
    )
    return make(), code


def handshake(site: Site, random: Random) -> tuple[list[bytes], bool]:
    """Draw the headers of a handshake, and whether they are good."""
    token = site.tokens[random.choice(("bound", "reader"))].encode()
    good = [
        b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + base64.b64encode(random.randbytes(16)),
    ]  # fmt: skip
    kind = random.random()
    if kind < 0.5:
        return [*good, b"Authorization: Bearer " + token, b"Sec-WebSocket-Protocol: runstore.v1"], True
    if kind < 0.85:
        return [*good, b"Sec-WebSocket-Protocol: runstore.v1, runstore.bearer." + token], True
    lines = [*good, random.choice((b"Authorization: Bearer " + token, b"X: y"))]
    if random.random() < 0.5:
        lines[random.randrange(4)] = random.choice(
            (
                b"Upgrade: h2c",
                b"Connection: close",
                b"Sec-WebSocket-Version: 99",
                b"Sec-WebSocket-Version: x",
                b"Sec-WebSocket-Key: short",
                b"Sec-WebSocket-Key:",
                b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99",
                b"Sec-WebSocket-Extensions: x;;;=,",
            )
        )
    offered = random.choice(
        (
            b"",
            b"runstore.v2",
            b"runstore.v1",
            b"RUNSTORE.V1",
            b"runstore.bearer." + token,
            b",,,",
            b"runstore.v1,runstore.v1",
            b"runstore.bearer.",
            b"runstore.v1, runstore.bearer.\xff",
            b"chat, runstore.v1",
            b"a" * 3000,
            b"runstore.v1 ; x",
            b"runstore.v1, runstore.bearer.a, runstore.bearer.b",
            b"\x00",
        )
    )
    return [*lines, b"Sec-WebSocket-Protocol: " + offered] if offered else lines, False


async def run(site: Site, tally: Tally, plan: Plan) -> None:
    """Open connections, each with its messages and one odd frame."""
    made = site.pooled("frames", size_for(plan.inputs), lambda size: messages(site, plan.seed, size))

    async def one(number: int) -> None:
        await _connection(site, tally, plan.random(number), number, made)

    await each(plan.numbers(-(-plan.inputs // (MESSAGES + 2))), AT_ONCE, one)


async def _connection(site: Site, tally: Tally, random: Random, number: int, made: list[Any]) -> None:
    headers, is_good = handshake(site, random)
    sent: list[bytes] = [b"\r\n".join(headers)]
    try:
        async with WsLine(site.address, number) as line:
            answer = await line.open(headers)
            tally.tried(f"handshake {answer.status}", len(sent[0]))
            if answer.status != 101:
                if is_good or answer.status not in {400, 401, 403, 426}:
                    tally.fail(f"a handshake that was answered with {answer.status}", number, sent, answer)
                return
            for _ in range(MESSAGES):
                raw = odd.written(random.choice(made), ascii_only=random.random() < 0.5)
                raw = odd.mutated(random, raw) if random.random() < 0.35 else raw
                raw = raw.decode("utf-8", "replace").encode()  # what is no UTF-8 ends a connection: see `odd_frames`
                sent.append(raw)
                line.send(frame(TEXT, raw))
            word = f"word-{number}"
            line.send(frame(TEXT, odd.written({"type": "unsubscribe", "id": word})))
            heard, code = await _hear(site, tally, line, word, number, sent)
            tally.tried("answered" if code is None else f"closed {code}", sum(map(len, sent)), MESSAGES)
            if code is not None and is_good:
                tally.fail("a connection that did not live through messages of text", number, sent, (code, heard[-3:]))
            if code is None:
                last, must = odd_frames(random)
                line.send(last)
                if must is None:
                    asyncio.get_running_loop().call_later(QUIET_S, line.end)
                _, code = await _hear(site, tally, line, None, number, [last])
                tally.tried(f"closed {code}", len(last))
                if must not in {None, code}:
                    tally.fail(f"a frame that was closed with {code} and not with {must}", number, [last[:200]])
    except TimeoutError:
        tally.tried("none")
        tally.fail("a connection on which nothing was answered", number, sent)
    except (NotHttp, NotWebsocket, ValueError) as error:
        tally.tried("no websocket")
        tally.fail("something that is no websocket", number, sent, repr(error))
    except ConnectionError as error:
        tally.tried("cut")
        if is_good:
            tally.fail("a connection that was cut in its handshake", number, sent, repr(error))


async def _hear(
    site: Site, tally: Tally, line: WsLine, word: str | None, number: int, sent: list[bytes]
) -> tuple[list[Any], int | None]:
    """Hear messages until the answer to a word comes, or the end, whose code is returned."""
    heard: list[Any] = []
    while True:
        told = await line.message()
        if isinstance(told, int):
            if told not in CODES:
                tally.fail(f"a connection that was closed with {told}", number, sent, heard[-3:])
            return heard, told
        heard.append(told)
        if told.get("type") not in TYPES or (told["type"] == "error" and told.get("code") == "internal_error"):
            tally.fail("a message that the protocol does not know", number, sent, told)
        if site.secret in str(told):
            tally.fail("a push of a project that the caller may not read", number, sent, told)
        if word is not None and told.get("type") == "error" and told.get("id") == word:
            return heard, None


ATTACK = Attack(
    name="frames",
    checks="a last word answered, or a close by the protocol; frames by RFC 6455; no other project pushed",
    share=0.26,
    least=20,
    run=run,
)
