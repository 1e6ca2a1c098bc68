"""JWTs at the door, against a real issuer: RFC 8725 as a list, and keys that come, change and go."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from runstore.core.principal import Scope
from runstore.gateway.jwt_config import JwtTiming
from runstore.gateway.known import KnownCallers
from tests.gateway.builders import ADMIN, Reply, Site, StandIn, site_over, until
from tests.gateway.issuer import PROJECTS, Issuer, an_ec_key, an_rsa_key, issuing, jwk_of, segment
from tests.waiting import happens

TIMING = JwtTiming(refresh_s=300, retry_s=0.05, unknown_every_s=300)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as made:
        yield made


@pytest.fixture
async def door(site: Site, issuer: Issuer) -> AsyncIterator[Site]:
    """A gateway that takes the issuer's tokens, beside `site` over the same store."""
    async with site_over(site.store, jwt=issuer.config(), jwt_timing=TIMING) as made:
        yield made


async def enter(site: Site, token: str) -> Reply:
    return await site.get("/v1/runs", token=token)


async def answers(site: Site, token: str, status: int) -> bool:
    return (await enter(site, token)).status == status


async def refusal(site: Site, token: str) -> str:
    reply = await enter(site, token)
    assert (reply.status, reply.code) == (401, "unauthorized"), reply.body
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    return str(reply.json()["detail"])


async def test_a_token_of_the_issuer_is_let_in_and_reaches_its_projects(door: Site, issuer: Issuer) -> None:
    mine = await door.publish(status="success")
    other = await door.publish(project_name="secrets", status="success")

    token = issuer.token("openid", "runs:read")

    assert (await door.get(f"/v1/runs/{mine}", token=token)).status == 200
    assert (await door.get(f"/v1/runs/{other}", token=token)).code == "run_not_found"
    assert (await door.post("/v1/runs", {"project_name": "forecasts"}, token=token)).code == "forbidden"


async def test_both_algorithms_and_both_forms_of_an_audience_are_taken(door: Site, issuer: Issuer) -> None:
    issuer.keys["second"] = an_ec_key()

    for token in (
        issuer.token(kid="second"),
        issuer.token(aud=["another", "https://runstore.example"]),
        issuer.token(header={"typ": "at+jwt"}),
        issuer.token(header={"typ": "JWT", "jku": "https://a.example", "x5t": "abc"}),
    ):
        assert (await enter(door, token)).status == 200


async def test_permissions_of_a_list_are_scopes_too(door: Site, issuer: Issuer) -> None:
    token = issuer.token(scope=None, permissions=["runs:write"])

    assert (await enter(door, token)).code == "forbidden"
    assert (await door.post("/v1/runs", {"project_name": "forecasts"}, token=token)).status == 202


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"alg": "none", "kid": "first"}, "alg must be"),
        ({"alg": "HS256", "kid": "first"}, "alg must be"),
        ({"alg": "RS512", "kid": "first"}, "alg must be"),
        ({"alg": "rs256", "kid": "first"}, "alg must be"),
        ({"alg": ["RS256"], "kid": "first"}, "alg must be"),
        ({"kid": "first"}, "alg must be"),
        ({"alg": "ES256", "kid": "first"}, "key is for RS256"),
        ({"alg": "RS256"}, "must name the key"),
        ({"alg": "RS256", "kid": ""}, "must name the key"),
        ({"alg": "RS256", "kid": 1}, "must name the key"),
        ({"alg": "RS256", "kid": "k" * 300}, "must name the key"),
        ({"alg": "RS256", "kid": "first", "crit": ["exp"]}, "extension"),
        ({"alg": "RS256", "kid": "first", "crit": []}, "extension"),
        ({"alg": "RS256", "kid": "first", "b64": False}, "extension"),
        ({"alg": "RS256", "kid": "first", "typ": "dpop+jwt"}, "typ must be"),
        ({"alg": "RS256", "kid": "first", "typ": "logout+jwt"}, "typ must be"),
        ({"alg": "RS256", "kid": "first", "typ": 1}, "typ must be"),
    ],
)
async def test_a_header_that_asks_for_something_else_is_refused_though_rightly_signed(
    door: Site, issuer: Issuer, header: dict[str, Any], says: str
) -> None:
    assert says in await refusal(door, issuer.written(header))


async def test_a_token_without_a_signature_is_refused(door: Site, issuer: Issuer) -> None:
    claims = segment(issuer.claims())

    for algorithm in ("none", "None", "RS256"):
        await refusal(door, f"{segment({'alg': algorithm, 'kid': 'first'})}.{claims}.")


async def test_a_public_key_is_no_secret_of_an_hmac(door: Site, issuer: Issuer) -> None:
    public = issuer.keys["first"].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for algorithm in ("HS256", "RS256"):
        signing_input = f"{segment({'alg': algorithm, 'kid': 'first'})}.{segment(issuer.claims())}"
        forged = hmac.digest(pem, signing_input.encode(), "sha256")

        await refusal(door, f"{signing_input}.{segment(forged)}")


async def test_a_key_that_comes_with_the_token_is_never_asked_for_or_taken(door: Site, issuer: Issuer) -> None:
    mine = an_rsa_key("attacker")
    async with issuing() as attacker:
        attacker.keys["first"] = mine
        there = attacker.url + "/.well-known/jwks.json"
        for header in (
            {"jku": there},
            {"x5u": there},
            {"jwk": jwk_of(mine, "first")},
            {"jku": there, "kid": "second"},
            {"kid": there},
            {"kid": "../../.well-known/jwks.json"},
        ):
            await refusal(door, issuer.token(key=mine, header=header))

        assert attacker.asked == []


async def test_a_signature_by_any_other_key_or_over_any_other_claims_is_refused(door: Site, issuer: Issuer) -> None:
    issuer.keys["second"] = an_ec_key()
    head, claims, signature = issuer.token().split(".")

    for token in (
        issuer.token(key=an_rsa_key("attacker")),
        issuer.token(kid="second", key=an_ec_key("attacker")),
        issuer.token(kid="second", key=issuer.keys["first"]),
        issuer.token(kid="first", key=issuer.keys["second"]),
        f"{head}.{segment(issuer.claims(scope='admin'))}.{signature}",
        f"{head}.{claims}.{signature[:-4]}",
        f"{head}.{claims}.",
        f"{head}..{signature}",
        f"{head}.{claims}.{segment(bytes(64))}",
        f"{segment({'alg': 'ES256', 'kid': 'second'})}.{claims}.{segment(bytes(64))}",
    ):
        await refusal(door, token)


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"aud": "https://other.example"}, "audience"),
        ({"aud": ["https://other.example", "x"]}, "audience"),
        ({"iss": "https://other.example/"}, "issuer"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "lacks exp"),
        ({"sub": None}, "lacks sub"),
        ({"aud": None}, "lacks aud"),
        ({"iss": None}, "lacks iss"),
        ({"nbf": 2**40}, "not valid yet"),
        ({"iat": 2**40}, "not valid yet"),
        ({PROJECTS: 7}, "must be a text or a list"),
    ],
)
async def test_a_claim_that_is_wrong_is_refused_with_what_is_wrong(
    door: Site, issuer: Issuer, claims: dict[str, Any], says: str
) -> None:
    header = {"alg": "RS256", "kid": "first"}

    assert says in await refusal(door, issuer.written(header, **claims))


@pytest.mark.parametrize(
    "claims", [b"", b"[]", b"7", b"nonsense", b"\xff", b'{"exp":' + b"9" * 5000 + b"}", b"[" * 2000]
)
async def test_claims_that_are_no_object_are_refused(door: Site, issuer: Issuer, claims: bytes) -> None:
    from jwt import PyJWS

    token = PyJWS().encode(claims, issuer.keys["first"], "RS256", headers={"kid": "first"})  # type: ignore[arg-type]

    await refusal(door, token)


@pytest.mark.parametrize(
    "token", ["a.b.c", "e.e.e", "eyJ.eyJ.x", "..", "...", "a.b", f"{segment([])}.a.b", f"{segment(b'{')}.a.b"]
)
async def test_what_only_looks_like_a_token_is_refused(door: Site, token: str) -> None:
    await refusal(door, token)


async def test_a_huge_token_is_refused_before_it_is_read(door: Site, issuer: Issuer) -> None:
    assert "one token" in await refusal(door, issuer.token(filler="x" * 8000))


async def test_an_api_token_is_taken_beside_jwts(door: Site) -> None:
    assert (await enter(door, ADMIN)).status == 200
    assert (await enter(door, await door.token(Scope.READ))).status == 200


async def test_without_an_issuer_a_jwt_is_a_token_that_nobody_knows(site: Site, issuer: Issuer) -> None:
    assert "not known" in await refusal(site, issuer.token())
    assert issuer.asked == []


async def test_a_key_that_is_new_is_found_and_one_that_is_gone_serves_no_longer(site: Site, issuer: Issuer) -> None:
    timing = JwtTiming(refresh_s=0.05, unknown_every_s=300)
    async with site_over(site.store, jwt=issuer.config(), jwt_timing=timing) as door:
        old = issuer.token()
        assert (await enter(door, old)).status == 200

        issuer.keys = {"second": an_ec_key("rotated")}

        assert (await enter(door, issuer.token(kid="second"))).status == 200
        assert "does not have" in await refusal(door, old)


async def test_a_key_that_was_replaced_under_its_own_id_ends_what_the_old_one_signed(
    site: Site, issuer: Issuer
) -> None:
    async with site_over(site.store, jwt=issuer.config(), jwt_timing=JwtTiming(refresh_s=0.02)) as door:
        old = issuer.token()
        assert (await enter(door, old)).status == 200

        issuer.keys = {"first": an_rsa_key("rotated")}

        await happens(lambda: answers(door, issuer.token(), 200))
        assert "signature" in await refusal(door, old)


async def test_a_flood_of_unknown_keys_asks_the_issuer_a_few_times_only(door: Site, issuer: Issuer) -> None:
    replies = await asyncio.gather(
        *(enter(door, issuer.token(kid=f"k{number}", key=an_rsa_key())) for number in range(60))
    )

    assert {reply.status for reply in replies} == {401}
    assert len(issuer.asked) <= 1 + TIMING.unknown_burst
    assert (await enter(door, issuer.token())).status == 200


async def test_many_tokens_at_the_beginning_ask_the_issuer_once(site: Site, issuer: Issuer) -> None:
    opened = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await opened.wait()
        return web.json_response({"keys": [jwk_of(issuer.keys["first"], "first")]})

    issuer.answer = answer
    async with site_over(site.store, jwt=issuer.config(), jwt_timing=TIMING) as door:
        entering = [asyncio.create_task(enter(door, issuer.token(sub=f"s{number}"))) for number in range(20)]
        await until(lambda: len(issuer.asked) == 1)
        opened.set()

        assert {(await reply).status for reply in entering} == {200}
        assert len(issuer.asked) == 1


async def refuse(_: web.Request) -> web.StreamResponse:
    return web.Response(status=500)


async def redirect(request: web.Request) -> web.StreamResponse:
    if request.path == "/elsewhere":
        return web.json_response({"keys": [jwk_of(an_rsa_key("first"), "first")]})
    return web.Response(status=302, headers={"Location": "/elsewhere"})


async def no_json(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"<html>")


async def too_long(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


async def never(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("answer", [refuse, redirect, no_json, too_long, never])
async def test_while_the_keys_cannot_be_read_a_jwt_is_told_to_come_again_and_api_tokens_go_on(
    site: Site, issuer: Issuer, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> None:
    issuer.answer = answer
    timing = JwtTiming(retry_s=0.05, fetch_timeout_s=0.3)
    async with site_over(site.store, jwt=issuer.config(), jwt_timing=timing) as door:
        reply = await enter(door, issuer.token())

        assert (reply.status, reply.code) == (503, "store_unavailable")
        assert reply.headers["Retry-After"]
        assert (await enter(door, ADMIN)).status == 200
        assert "/elsewhere" not in issuer.asked

        issuer.answer = None
        await happens(lambda: answers(door, issuer.token(), 200))


async def test_an_issuer_that_is_away_is_not_asked_for_every_request(site: Site, issuer: Issuer) -> None:
    issuer.answer = refuse
    timing = JwtTiming(retry_s=300, unknown_every_s=300)
    async with site_over(site.store, jwt=issuer.config(), jwt_timing=timing) as door:
        for _ in range(30):
            assert (await enter(door, issuer.token())).status == 503

    assert len(issuer.asked) <= 1 + timing.unknown_burst


async def test_keys_serve_on_while_the_issuer_is_away(site: Site, issuer: Issuer) -> None:
    async with site_over(site.store, jwt=issuer.config(), jwt_timing=JwtTiming(refresh_s=0.02, retry_s=0.02)) as door:
        token, other = issuer.token(), issuer.token(sub="other")
        assert (await enter(door, token)).status == 200

        await issuer.stop()

        assert (await enter(door, token)).status == 200
        assert (await enter(door, other)).status == 200


async def test_keys_serve_on_for_a_bounded_time_only(site: Site, issuer: Issuer) -> None:
    timing = JwtTiming(refresh_s=0.02, retry_s=0.02, stale_s=0.5)
    async with site_over(site.store, jwt=issuer.config(), jwt_timing=timing) as door:
        token = issuer.token()
        await happens(lambda: answers(door, token, 200))

        await issuer.stop()
        await happens(lambda: answers(door, token, 503))

        await issuer.start()
        await happens(lambda: answers(door, token, 200))


async def test_a_signature_is_checked_once_and_what_is_kept_of_that_is_bounded(
    door: Site, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runstore.gateway import jwts

    checked: list[str] = []
    real = jwts.Jwts._verify

    def verify(self: Any, bearer: str, key: Any) -> Any:
        checked.append(bearer)
        return real(self, bearer, key)

    monkeypatch.setattr(jwts.Jwts, "_verify", verify)
    token = issuer.token()
    for _ in range(5):
        assert (await enter(door, token)).status == 200

    assert checked == [token]


def test_callers_are_forgotten_when_they_expire_when_nothing_vouches_and_when_there_are_many() -> None:
    from runstore.core.principal import Principal
    from runstore.gateway.context import Caller

    standing = {b"a", b"b"}
    known = KnownCallers(standing.__contains__, most=3)

    def a_caller(number: int, *, expires_in_s: float = 60, voucher: bytes = b"a") -> Caller:
        principal = Principal(name="x", scopes=frozenset(), expires_at_s=time.time() + expires_in_s)
        caller = Caller(principal=principal, digest=bytes([number]), vouchers=(voucher,))
        known.put(caller)
        return caller

    a_caller(1, expires_in_s=-1)
    second, third = a_caller(2, voucher=b"b"), a_caller(3)
    assert known.get(b"\x01") is None
    assert (known.get(b"\x02"), known.get(b"\x03")) == (second, third)
    standing.remove(b"b")
    assert known.get(b"\x02") is None
    for number in range(10, 20):
        a_caller(number)
    assert len(known) == 3


async def test_an_issuer_needs_not_be_there_when_the_gateway_starts(site: Site, issuer: Issuer) -> None:
    await issuer.stop()

    async with site_over(site.store, jwt=issuer.config(), jwt_timing=TIMING) as door:
        assert (await enter(door, ADMIN)).status == 200
        await issuer.start()
        await happens(lambda: answers(door, issuer.token(), 200))


async def test_the_same_idempotency_key_of_two_subjects_makes_two_runs(door: Site, issuer: Issuer) -> None:
    headers, body = {"Idempotency-Key": "k"}, {"project_name": "forecasts"}
    told = [
        (await door.post("/v1/runs", body, headers=headers, token=issuer.token("runs:write", sub=subject))).json()
        for subject in ("one", "two", "one")
    ]

    assert told[0]["run_id"] == told[2]["run_id"] != told[1]["run_id"]


async def test_two_gateways_each_take_the_issuers_tokens(gateway_store: StandIn, site: Site, issuer: Issuer) -> None:
    async with (
        site_over(gateway_store, jwt=issuer.config(projects=("*",))) as one,
        site_over(gateway_store, jwt=issuer.config()) as other,
    ):
        run_id = await one.publish(project_name="secrets")
        token = issuer.token(projects=None)

        assert (await one.get(f"/v1/runs/{run_id}", token=token)).status == 200
        assert (await other.get(f"/v1/runs/{run_id}", token=token)).code == "run_not_found"
