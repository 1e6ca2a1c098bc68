"""The port SigningKeys, over every kind of server."""

import asyncio
import time

from runstore.adapters.store import RedisStore
from runstore.ports import SigningKey
from runstore.wire.keys import RUN_TOKEN_KEYS

DAY_S = 24 * 3600


def a_key(number: int) -> tuple[bytes, bytes]:
    return bytes([number]) * 8, bytes([number]) * 32


async def renew(store: RedisStore, number: int, *, rotate_s: int = DAY_S, keep_s: int = 2 * DAY_S) -> list[SigningKey]:
    return await store.signing_keys.renew(*a_key(number), rotate_s=rotate_s, keep_s=keep_s)


async def age(store: RedisStore, number: int, by_s: int) -> None:
    """Make a key older."""
    key_id, secret = a_key(number)
    made_ms = int(time.time() - by_s) * 1000
    await store.client.execute_command("HSET", RUN_TOKEN_KEYS, key_id.hex(), f"{made_ms}:{secret.hex()}")


async def test_gateways_that_ask_together_make_one_key_and_all_know_it(store: RedisStore) -> None:
    assert await store.signing_keys.list_keys() == []

    told = await asyncio.gather(*(renew(store, number) for number in range(5)))

    kept = await store.signing_keys.list_keys()
    assert told == [kept] * 5
    assert [(key.key_id, key.secret) for key in kept] in [[a_key(number)] for number in range(5)]
    assert abs(kept[0].created_at_s - time.time()) < 60


async def test_a_key_that_is_old_enough_gets_a_successor_and_serves_on(store: RedisStore) -> None:
    await renew(store, 1)
    await age(store, 1, by_s=DAY_S + 1)

    kept = await renew(store, 2)

    assert {key.key_id for key in kept} == {a_key(1)[0], a_key(2)[0]}


async def test_a_key_that_signs_nothing_any_more_is_forgotten(store: RedisStore) -> None:
    await renew(store, 1)
    await age(store, 1, by_s=2 * DAY_S + 1)

    kept = await renew(store, 2)

    assert [key.key_id for key in kept] == [a_key(2)[0]]


async def test_what_is_no_key_is_passed_over_and_replaced(store: RedisStore) -> None:
    far = int(time.time() + 90 * DAY_S) * 1000
    await store.client.execute_command(
        "HSET", RUN_TOKEN_KEYS, "aa" * 8, b"\xff", "bb" * 8, f"{far}:{'ab' * 32}", "cc" * 8, "1:short", "zz", "1"
    )

    assert [key.key_id for key in await store.signing_keys.list_keys()] == [b"\xbb" * 8]
    assert [key.key_id for key in await renew(store, 2)] == [a_key(2)[0]]
