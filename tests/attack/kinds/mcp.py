"""Messages to `POST /mcp`: good ones of both eras, and what is left of them after something happened to them."""

import json
from random import Random
from typing import Any

from tests.attack import odd
from tests.attack.attack import Attack, Plan, Tally, each
from tests.attack.http_line import HttpLine, NotHttp
from tests.attack.judge import Documented, judge
from tests.attack.site import ATTACKED, Site

AT_ONCE = 8
INTERNAL_ERROR = -32603
ERAS = ("2025-11-25", "2026-07-28", "2025-06-18", "1999-01-01", "")


def message(site: Site, random: Random) -> dict[str, Any]:
    """Draw a good message."""
    run_id = random.choice((*site.known, *site.hidden, odd.text(random)))
    arguments: dict[str, dict[str, Any]] = {
        "get_run": {"run_id": run_id, "wait_s": 0},
        "get_run_output": {
            "run_id": run_id,
            "output_name": random.choice(("revenue", "a/b", odd.text(random))),
            "encoding": random.choice(("auto", "json", "text", "base64")),
        },
        "list_runs": {"project_name": ATTACKED, "limit": 5, "status": ["success"], "tag": ["t1"]},
        "run": {"project_name": ATTACKED, "inputs": {"a": 1}, "mode": "async", "queue_timeout_s": 1},
        "cancel_run": {"run_id": run_id},
    }
    tool = random.choice(list(arguments))
    if random.random() < 0.6:
        for _ in range(random.randrange(3)):
            name = random.choice((*arguments[tool], "x"))
            arguments[tool][name] = odd.value(random)
    given = arguments[tool]
    if isinstance(given.get("wait_s"), (int, float)):
        given["wait_s"] = min(given["wait_s"], 0.2)
    if given.get("mode") == "sync":
        given["mode"] = "async"
    method, params = random.choice(
        (
            ("tools/call", {"name": tool, "arguments": given}),
            (
                "tools/call",
                {
                    "name": tool,
                    "arguments": given,
                    "_meta": {"progressToken": odd.value(random), "traceparent": odd.text(random)},
                },
            ),
            ("tools/call", {"name": odd.text(random), "arguments": odd.value(random)}),
            ("tools/list", {"cursor": odd.text(random)}),
            (
                "initialize",
                {
                    "protocolVersion": random.choice(ERAS),
                    "capabilities": {},
                    "clientInfo": {"name": "x", "version": "1"},
                },
            ),
            ("notifications/initialized", {}),
            ("notifications/cancelled", {"requestId": odd.value(random)}),
            ("tasks/get", {"taskId": run_id}),
            ("tasks/cancel", {"taskId": run_id}),
            ("tasks/update", {"taskId": run_id, "x": odd.value(random)}),
            ("tasks/list", {}),
            ("resources/read", {"uri": "file:///etc/passwd"}),
            ("prompts/list", {}),
            ("server/discover", {}),
            ("subscriptions/listen", {}),
            ("ping", {}),
            (odd.text(random), odd.value(random)),
        )
    )
    said = {"jsonrpc": "2.0", "id": random.choice((1, "a", 0, -1, 2**60)), "method": method, "params": params}
    if method.startswith("notifications"):
        del said["id"]
    return said


def draw(site: Site, random: Random) -> bytes:
    """Draw a request."""
    said = message(site, random)
    kind = random.random()
    if kind < 0.45:
        body = odd.written(said)
    elif kind < 0.8:
        body = odd.mutated_json(random, said)
    elif kind < 0.85:
        body = odd.deep(random)
    elif kind < 0.9:
        body = odd.written([said] * random.choice((0, 1, 3)))
    else:
        body = odd.written(odd.value(random))
    token = site.tokens[random.choice(("bound", "bound", "reader", "nobody"))]
    lines = [
        b"Host: x",
        b"Authorization: Bearer " + token.encode(),
        b"Accept: "
        + random.choice(
            (b"application/json, text/event-stream",) * 8
            + (b"application/json", b"text/event-stream", b"*/*", b"text/html")
        ),
        b"Content-Type: "
        + random.choice((b"application/json",) * 12 + (b"text/plain", b"application/json; charset=latin-1")),
    ]
    if random.random() < 0.5:
        era = random.choice(ERAS)
        lines += [b"MCP-Protocol-Version: " + era.encode()]
        if era == "2026-07-28" and random.random() < 0.8:
            name = said["params"].get("name") if isinstance(said["params"], dict) else None
            lines.append(b"Mcp-Method: " + _clean(said["method"]))
            if isinstance(name, str):
                lines.append(b"Mcp-Name: " + _clean(name))
    if random.random() < 0.1:
        lines.append(
            random.choice((b"Mcp-Session-Id: x", b"Last-Event-ID: 1", b"Mcp-Method: other", b"Mcp-Session-Id: \xff"))
        )
    head = b"POST /mcp HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


def _clean(text: str) -> bytes:
    return bytes(each for each in text.encode("utf-8", "replace") if each >= 0x20 and each != 0x7F)[:4000]


async def run(site: Site, tally: Tally, plan: Plan) -> None:
    """Send them all; a stream of events is hung up on once it has begun."""
    allowed = Documented(site.document).statuses("POST", "/mcp")
    lines = [HttpLine(site.address, 2000 + number) for number in range(AT_ONCE)]

    async def one(number: int) -> None:
        raw = draw(site, plan.random(number))
        line = lines.pop()
        try:
            (answer,) = await line.ask(raw, b"POST")
        except (NotHttp, TimeoutError, ConnectionError) as error:
            tally.tried(type(error).__name__, len(raw))
            tally.fail("a message that was not answered", number, raw, repr(error))
        else:
            tally.tried(answer.status, len(raw))
            judge(site, tally, answer, number=number, sent=raw, allowed=allowed)
            _judge_message(tally, answer.body, number, raw)
        finally:
            lines.append(line)

    await each(plan.numbers(), AT_ONCE, one)
    for line in lines:
        line.close()


def _judge_message(tally: Tally, body: bytes | None, number: int, raw: bytes) -> None:
    try:
        told = json.loads(body or b"")
    except ValueError:
        return
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, dict) and error.get("code") == INTERNAL_ERROR:
        tally.fail("an internal error of JSON-RPC", number, raw, told)
    if isinstance(told, dict) and "internal_error" in str(told.get("result")):
        tally.fail("a tool that failed by itself", number, raw, told)


ATTACK = Attack(
    name="mcp",
    checks="statuses of the document; no internal error of JSON-RPC or of a tool; no other project shown",
    share=0.04,
    run=run,
)
