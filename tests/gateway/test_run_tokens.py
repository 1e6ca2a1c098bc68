"""Run tokens: made for one run, taken by every gateway of the store, and gone with what made them."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.principal import Scope
from runstore.core.run_token import DEFAULT_S, MAX_S, read_run_token, write_run_token
from runstore.core.times import from_iso
from runstore.gateway.jwt_config import JwtTiming
from runstore.gateway.run_tokens import ROTATE_S
from runstore.ports import SigningKey
from runstore.wire.keys import RUN_TOKEN_KEYS
from tests.gateway.builders import RUN_ID, Site, StandIn, site_over
from tests.gateway.issuer import an_rsa_key, issuing
from tests.waiting import happens


async def make(site: Site, run_id: str, token: str | None = None, **body: Any) -> dict[str, Any]:
    options = {"token": token} if token is not None else {}
    reply = await site.post(f"/v1/runs/{run_id}/token", body or None, **options)
    assert reply.status == 200, reply.body
    assert reply.headers["Cache-Control"] == "no-store"
    told: dict[str, Any] = reply.json()
    return told


async def is_taken(site: Site, run_id: str, token: str) -> bool:
    reply = await site.get(f"/v1/runs/{run_id}", token=token)
    assert reply.status in {200, 401}, reply.body
    return reply.status == 200


async def is_refused(site: Site, run_id: str, token: str) -> bool:
    return not await is_taken(site, run_id, token)


def lasts_s(told: dict[str, Any]) -> float:
    return from_iso(told["expires_at"]) / 1_000_000 - time.time()


async def test_a_run_token_opens_its_run_by_id_and_by_prefix(site: Site) -> None:
    run_id = await site.publish(status="success")

    told = await make(site, run_id[:8].upper())

    assert list(told) == ["token", "run_id", "expires_at"]
    assert told["run_id"] == run_id
    assert DEFAULT_S - 60 < lasts_s(told) <= DEFAULT_S
    for text in (run_id, run_id.upper(), run_id[:4], run_id[:13]):
        assert await is_taken(site, text, told["token"])


async def test_how_long_it_holds_may_be_asked_for_within_bounds(site: Site) -> None:
    run_id = await site.publish()

    told = await make(site, run_id, expires_s=60)
    refused = [
        await site.post(f"/v1/runs/{run_id}/token", {"expires_s": bad}) for bad in (0, -1, MAX_S + 1, "60", None, 1.5)
    ]
    misspelt = await site.post(f"/v1/runs/{run_id}/token", {"expire_s": 1})

    assert 0 < lasts_s(told) <= 60
    assert {reply.code for reply in refused} == {"invalid_request"}
    assert "did you mean 'expires_s'?" in misspelt.json()["detail"]


async def test_it_ends_with_the_token_that_made_it_at_the_latest(site: Site) -> None:
    run_id = await site.publish()
    maker = await site.token(Scope.READ, expires_at_s=int(time.time()) + 100)

    told = await make(site, run_id, maker, expires_s=3600)

    assert lasts_s(told) <= 100


async def test_an_expired_one_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await site.publish()
    known, new = (await make(site, run_id, expires_s=60))["token"], (await make(site, run_id, expires_s=60))["token"]
    assert await is_taken(site, run_id, known)

    now_s = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: now_s)

    for token in (known, new):
        assert "expired" in (await site.get(f"/v1/runs/{run_id}", token=token)).json()["detail"]


async def test_every_gateway_of_the_store_takes_it_at_once(gateway_store: StandIn, site: Site, redis_url: str) -> None:
    run_id = await site.publish()
    async with RedisStore.open(redis_url) as store, site_over(StandIn(store), tokens_refresh_s=300) as other:
        # made after the other gateway looked at the keys and the tokens, and by a token that it has not seen
        maker = await site.token(Scope.READ)
        told = await make(site, run_id, maker)

        assert await is_taken(other, run_id, told["token"])
        assert await is_taken(site, run_id, (await make(other, run_id))["token"])


async def test_it_is_gone_with_the_token_that_made_it(site: Site) -> None:
    run_id = await site.publish()
    maker, another = await site.token(Scope.READ), await site.token(Scope.READ)
    told, others = await make(site, run_id, maker), await make(site, run_id, another)
    assert await is_taken(site, run_id, told["token"])

    await site.store.tokens.revoke(maker)

    await happens(lambda: is_refused(site, run_id, told["token"]))
    assert await is_taken(site, run_id, others["token"])


async def test_it_does_not_come_back_with_another_token_of_the_name_of_its_maker(site: Site) -> None:
    run_id = await site.publish()
    maker = await site.token(Scope.READ)
    told = await make(site, run_id, maker)
    (record,) = [one for one in await site.store.tokens.list_tokens() if one.name == maker]

    await site.store.tokens.revoke(maker)
    await site.store.tokens.put(msgspec.structs.replace(record, hash="ab" * 32))

    await happens(lambda: is_refused(site, run_id, told["token"]))


async def test_a_forged_one_and_one_of_another_store_are_refused(site: Site) -> None:
    run_id, other = await site.publish(), await site.publish()
    token = (await make(site, run_id))["token"]
    read = read_run_token(token)
    assert read is not None
    forged = [
        write_run_token(read.claims, b"guess" * 8),
        write_run_token(msgspec.structs.replace(read.claims, run_id=RunId(other)), b"\0" * 32),
        write_run_token(msgspec.structs.replace(read.claims, key_id=b"anotherk"), b"guess" * 8),
        token[:-20] + "A" * 20,
    ]

    for text in forged:
        assert not await is_taken(site, run_id, text)
        assert not await is_taken(site, other, text)


async def test_it_dies_within_moments_once_its_key_is_taken_out_of_the_store_and_new_ones_are_made(
    site: Site,
) -> None:
    run_id = await site.publish()
    told = await make(site, run_id)
    assert await is_taken(site, run_id, told["token"])

    await site.store.redis.client.execute_command("DEL", RUN_TOKEN_KEYS)

    await happens(lambda: is_refused(site, run_id, told["token"]))
    assert await is_taken(site, run_id, (await make(site, run_id))["token"])


async def test_a_key_is_made_once_and_replaced_when_it_is_old_while_what_it_signed_holds(site: Site) -> None:
    run_id, keys = await site.publish(), site.store.signing_keys
    first = await make(site, run_id)
    await make(site, run_id)
    (key,) = await keys.list_keys()
    aged = f"{int(time.time() - ROTATE_S - 1) * 1000}:{key.secret.hex()}"
    await site.store.redis.client.execute_command("HSET", RUN_TOKEN_KEYS, key.key_id.hex(), aged)

    async def is_replaced() -> bool:
        await make(site, run_id)
        return len(await keys.list_keys()) == 2

    await happens(is_replaced)
    assert await is_taken(site, run_id, first["token"])
    read = read_run_token((await make(site, run_id))["token"])
    assert read is not None
    assert read.claims.key_id != key.key_id


async def test_a_run_token_lives_as_long_as_the_issuers_key_that_its_jwt_was_signed_with(site: Site) -> None:
    run_id = await site.publish()
    async with (
        issuing() as issuer,
        site_over(site.store, jwt=issuer.config(), jwt_timing=JwtTiming(refresh_s=0.05)) as door,
    ):
        maker = issuer.token("runs:read", exp=int(time.time()) + 100)
        told = await make(door, run_id, maker)
        assert lasts_s(told) <= 110
        assert await is_taken(door, run_id, told["token"])

        issuer.keys = {"second": an_rsa_key("rotated")}

        await happens(lambda: is_refused(door, run_id, told["token"]))
    # a gateway that takes no JWTs takes nothing that was made with one
    assert not await is_taken(site, run_id, told["token"])


async def test_the_maker_must_be_able_to_read_the_run(site: Site) -> None:
    run_id = await site.publish(project_name="secrets")
    bound, writer = await site.token(Scope.READ, projects=("forecasts",)), await site.token(Scope.WRITE)

    asked = [(run_id, bound), (run_id[:8], bound), (run_id, writer), (RUN_ID, bound), ("xy", bound)]
    told = [(await site.post(f"/v1/runs/{text}/token", token=token)).code for text, token in asked]

    assert told == ["run_not_found", "run_not_found", "forbidden", "run_not_found", "invalid_run_id"]


async def test_a_token_of_the_form_of_a_run_token_with_nothing_behind_it_costs_a_bounded_number_of_looks(
    site: Site, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RedisStore.open(redis_url) as store, site_over(StandIn(store), tokens_refresh_s=300) as other:
        looks: list[int] = []
        real = store.signing_keys.list_keys

        async def list_keys() -> list[SigningKey]:
            looks.append(1)
            return await real()

        monkeypatch.setattr(store.signing_keys, "list_keys", list_keys)
        began_at = time.monotonic()
        replies = await asyncio.gather(*(other.get("/v1/runs", token=f"rrt_{number:0107d}") for number in range(100)))

    assert {reply.status for reply in replies} == {401}
    assert len(looks) <= 2 + (time.monotonic() - began_at) / 0.2
