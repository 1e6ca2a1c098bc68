"""Credentials: API tokens, run tokens and JWTs that are forged, spoilt, expired or odd. None lets anybody in."""

import time
from base64 import urlsafe_b64encode
from random import Random
from typing import Any

from runstore.core.token import COMBINATIONS, make_token
from tests.attack import odd
from tests.attack.attack import Attack, Plan, Tally, each
from tests.attack.http_line import Answer, HttpLine, NotHttp
from tests.attack.judge import judge
from tests.attack.site import ATTACKED, Site
from tests.gateway.issuer import PROJECTS, Issuer, an_ec_key, segment

AT_ONCE = 32
IN = {"200", "401", "403"}
OUT = {"401"}
CLAIMS = ("iss", "aud", "sub", "exp", "nbf", "iat", "scope", "permissions", PROJECTS, "jti", "x")
ODD_TIMES: tuple[Any, ...] = (0, -1, 1e300, 2**63, 2**64, "9999999999", True, None, [], {}, 1.5, 4e9, "now")


def draw(site: Site, random: Random, run_token: str) -> tuple[bytes, set[str]]:
    """Draw a value of `Authorization`, and the statuses that it may get."""
    kind = random.random()
    if kind < 0.25:
        return b"Bearer " + make_token(random.randrange(COMBINATIONS)).encode(), OUT
    if kind < 0.4:
        good = random.choice((*site.tokens.values(), run_token)).encode()
        spoilt = odd.mutated(random, good).replace(b"\r", b"").replace(b"\n", b"").replace(b"\x00", b"")
        return b"Bearer " + spoilt, OUT if spoilt.strip() != good else IN
    if kind < 0.5:
        text = odd.text(random).encode("utf-8", "replace").replace(b"\r", b"").replace(b"\n", b"").replace(b"\x00", b"")
        return random.choice(
            (b"Bearer ", b"bearer ", b"Basic ", b"Digest ", b"Bearer", b"", b"Bearer Bearer ")
        ) + text, OUT
    token, allowed = jwt(site.issuer, random)
    return b"Bearer " + token.encode("utf-8", "replace"), allowed


def jwt(issuer: Issuer, random: Random) -> tuple[str, set[str]]:
    """Draw a JWT, and the statuses that it may get."""
    kind = random.random()
    if kind < 0.2:
        claims = {random.choice(CLAIMS): odd.value(random) for _ in range(random.randrange(1, 4))}
        return issuer.token("runs:read", kid="ec", projects=(ATTACKED,), **_named(claims)), IN
    if kind < 0.3:
        # well signed and well meant but for a time, which must be one
        when = random.choice(ODD_TIMES)
        is_later = isinstance(when, (int, float)) and not isinstance(when, bool) and when > time.time() + 60
        token = issuer.token("runs:read", kid="ec", projects=(ATTACKED,), exp=when)
        return token, IN if is_later else OUT
    if kind < 0.4:
        wrong = random.choice(
            (
                {"iss": issuer.issuer[:-1]},
                {"iss": "https://evil.example/"},
                {"aud": "https://other.example"},
                {"aud": ["a", "b"]},
                {"exp": int(time.time()) - 100},
                {"nbf": int(time.time()) + 3600},
                {"sub": None},
                {"exp": None},
                {"aud": None},
                {"iss": None},
            )
        )
        return issuer.token("runs:read", kid="ec", **wrong), OUT
    if kind < 0.5:
        return issuer.token(
            "runs:read",
            key=an_ec_key("foreign"),
            kid=random.choice(("ec", "first", "nobody", "../../etc/passwd", "' OR 1=1 --", "x" * 500, None)),
        ), OUT
    if kind < 0.6:
        header = {
            "jku": "http://127.0.0.1:1/",
            "x5u": "http://127.0.0.1:1/",
            "jwk": {"kty": "oct", "k": "AAAA"},
            "crit": ["exp"],
            "b64": False,
        }
        name = random.choice(list(header))
        return issuer.token("runs:read", key=an_ec_key("foreign"), kid="ec", header={name: header[name]}), OUT
    claims = issuer.claims(scope="admin")
    if kind < 0.75:
        algorithm = random.choice(
            ("none", "None", "HS256", "HS512", "RS384", "PS256", "ES384", "EdDSA", "", "ES256", None, 1, [], "A" * 1000)
        )
        header = {"alg": algorithm, "typ": "JWT", "kid": random.choice(("ec", "first", "", None, 1, [], {}))}
        signature = random.choice((b"", random.randbytes(64), b"\x00" * 64, random.randbytes(256)))
        return f"{segment(header)}.{segment(claims)}.{segment(signature)}", OUT
    if kind < 0.9:
        good = issuer.token("admin", kid="ec")
        spoilt = odd.mutated(random, good.encode()).decode("latin-1")
        spoilt = "".join(each for each in spoilt if "!" <= each <= "~")
        return spoilt, OUT if spoilt != good else IN
    parts = [
        random.choice(
            (
                segment(odd.written(odd.value(random))),
                urlsafe_b64encode(random.randbytes(20)).decode(),
                "",
                "=",
                "e30",
                segment(odd.deep(random))[:8000],
            )
        )
        for _ in range(random.choice((1, 2, 3, 3, 3, 4, 5)))
    ]
    return ".".join(parts), OUT


def _named(claims: dict[str, Any]) -> dict[str, Any]:
    return {("projects" if name == PROJECTS else name): value for name, value in claims.items()}


async def run(site: Site, tally: Tally, plan: Plan) -> None:
    """Ask for what any token may read, with each of them; over HTTP, and one in eight for a websocket."""
    status, body = await site.ask("POST", f"/v1/runs/{site.known[0]}/token")
    assert status == 200, body
    run_token = body.decode().split('"token":"')[1].split('"')[0]
    asked = len(site.issuer.asked)
    began = time.monotonic()
    lines = [HttpLine(site.address, 1000 + number) for number in range(AT_ONCE)]

    async def one(number: int) -> None:
        random = plan.random(number)
        try:
            value, allowed = draw(site, random, run_token)
        except (TypeError, ValueError, OverflowError):  # a claim that no JWT can be written with
            value, allowed = (
                b"Bearer " + odd.text(random).encode("ascii", "ignore").replace(b"\r\n", b"").replace(b"\x00", b""),
                OUT,
            )
        raw = b"GET /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: " + value + b"\r\n\r\n"
        if random.random() < 0.12 and value.startswith(b"Bearer "):
            raw = (
                b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: runstore.v1, runstore.bearer."
                + value[7:]
                + b"\r\n\r\n"
            )
            allowed = allowed | {"101"} if "200" in allowed else allowed | {"400"}
        line = lines.pop()
        try:
            answers = await line.ask(raw)
        except (NotHttp, TimeoutError, ConnectionError) as error:
            tally.tried(type(error).__name__, len(raw))
            tally.fail("a credential that was not answered", number, raw, repr(error))
        else:
            is_admin = value[7:].strip() == site.admin.encode()  # so little was spoilt that it is the token itself
            _judge(site, tally, answers[0], number, raw, allowed, is_admin=is_admin)
        finally:
            lines.append(line)

    await each(plan.numbers(), AT_ONCE, one)
    for line in lines:
        line.close()
    most = 8 + 8 * (time.monotonic() - began) / 60
    if (asks := len(site.issuer.asked) - asked) > most:
        tally.fail(f"the issuer was asked {asks} times for keys, more than {most:.0f}")


def _judge(
    site: Site, tally: Tally, answer: Answer, number: int, raw: bytes, allowed: set[str], *, is_admin: bool
) -> None:
    tally.tried(answer.status, len(raw))
    # a head that is too large or no HTTP is told so before anybody asks whose it is
    judge(site, tally, answer, number=number, sent=raw, allowed=allowed | {"400", "431"}, is_admin=is_admin)


ATTACK = Attack(
    name="tokens",
    checks="what is forged, spoilt or expired gets 401; the issuer is asked seldom; no other project shown",
    share=0.1,
    run=run,
)
