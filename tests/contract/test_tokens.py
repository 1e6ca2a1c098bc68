"""The port Tokens, over every kind of server."""

from runstore.adapters.store import RedisStore
from runstore.core.principal import Scope
from runstore.core.token import hash_token
from runstore.ports import TokenRecord
from runstore.wire.keys import TOKENS


def token(name: str, **changes: object) -> TokenRecord:
    said = {"hash": hash_token(name), "scopes": (Scope.READ,), "projects": None, "created_at_s": 1, **changes}
    return TokenRecord(name=name, **said)  # type: ignore[arg-type]


async def test_tokens_are_listed_by_name_as_they_were_put(store: RedisStore) -> None:
    bound = token("a", projects=("forecasts", "x/y"), scopes=(Scope.READ, Scope.WRITE), expires_at_s=5)

    assert await store.tokens.put(token("b"))
    assert await store.tokens.put(bound)
    assert await store.tokens.list_tokens() == [bound, token("b")]


async def test_a_name_is_given_once(store: RedisStore) -> None:
    await store.tokens.put(token("a"))

    assert not await store.tokens.put(token("a", hash=hash_token("other")))
    assert await store.tokens.list_tokens() == [token("a")]


async def test_a_revoked_token_is_gone_and_its_name_free(store: RedisStore) -> None:
    await store.tokens.put(token("a"))

    assert await store.tokens.revoke("a")
    assert not await store.tokens.revoke("a")
    assert await store.tokens.list_tokens() == []
    assert await store.tokens.put(token("a"))


async def test_a_token_that_cannot_be_read_hides_no_other(store: RedisStore) -> None:
    await store.tokens.put(token("b"))
    await store.client.execute_command("HSET", TOKENS, "a", b"\xff", "c", b'{"hash":"no hash","scopes":[]}')

    assert [known.name for known in await store.tokens.list_tokens()] == ["b"]
