"""`runstore token create | list | revoke`: API tokens of a store."""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import App, Parameter

from runstore.cli.durations import parse_seconds
from runstore.cli.exits import Trouble
from runstore.cli.screen import Words, err, out
from runstore.cli.target import Config, DataDir, Json, RedisUrl, find_store
from runstore.config import Settings, nearest
from runstore.core.ids import check_project_name
from runstore.core.principal import Scope
from runstore.core.times import to_iso
from runstore.core.token import COMBINATIONS, check_token_name, hash_token, make_token
from runstore.ports import TokenRecord

if TYPE_CHECKING:
    from runstore.ports import Tokens

app = App(name="token", help="Create, list and revoke API tokens.")
_HEAD = ("NAME", "SCOPES", "PROJECTS", "CREATED (UTC)", "EXPIRES (UTC)")
_Name = Annotated[str, Parameter(help="What the token is called.")]


@app.command
def create(
    *,
    name: Annotated[str, Parameter(help="What to call it; each name is given once.")],
    scope: Annotated[
        tuple[str, ...],
        Parameter(help="runs:read, runs:write, runs:publish or admin; may be repeated. None: runs:read."),
    ] = (),
    project: Annotated[tuple[str, ...], Parameter(help="Bind it to this project; may be repeated. None: all.")] = (),
    expires: Annotated[str | None, Parameter(help="When it ends, such as 30d or 12h from now. Unset: never.")] = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> int:
    """Create a token and print it alone, this once: the store keeps only its hash."""
    now_s = int(time.time())
    token = make_token(secrets.randbelow(COMBINATIONS))
    record = TokenRecord(
        name=check_token_name(name),
        hash=hash_token(token),
        scopes=tuple(dict.fromkeys(_scope(word) for word in scope)) or (Scope.READ,),
        projects=tuple(dict.fromkeys(check_project_name(word) for word in project)) or None,
        created_at_s=now_s,
        expires_at_s=now_s + parse_seconds(expires, "--expires") if expires is not None else None,
    )

    async def work() -> None:
        async with _tokens(redis_url, data_dir, config) as tokens:
            if not await tokens.put(record):
                raise Trouble(f"there is a token {name} already: choose another name, or revoke it first")

    asyncio.run(work())
    out().line(token)
    return 0


@app.command(name="list")
def list_tokens(
    *, json: Json = False, redis_url: RedisUrl = None, data_dir: DataDir = None, config: Config = None
) -> int:
    """List the tokens there are, by name; never the tokens themselves."""

    async def work() -> list[TokenRecord]:
        async with _tokens(redis_url, data_dir, config) as tokens:
            return await tokens.list_tokens()

    found, screen = asyncio.run(work()), out()
    if json:
        screen.json(msgspec.json.encode({"tokens": [_shown(token) for token in found]}))
    elif found:
        rows: list[list[Words]] = [
            [
                token.name,
                " ".join(token.scopes),
                " ".join(token.projects) if token.projects is not None else "(all)",
                _iso(token.created_at_s),
                (_iso(token.expires_at_s), "red" if _is_over(token) else ""),
            ]
            for token in found
        ]
        screen.table(_HEAD, rows)
    else:
        err().line(("there are no tokens", "dim"))
    return 0


@app.command
def revoke(name: _Name, /, *, redis_url: RedisUrl = None, data_dir: DataDir = None, config: Config = None) -> int:
    """End a token everywhere within seconds, what it has open included."""

    async def work() -> None:
        async with _tokens(redis_url, data_dir, config) as tokens:
            if not await tokens.revoke(name):
                known = [token.name for token in await tokens.list_tokens()]
                raise Trouble(f"there is no token {name!r}{nearest(name, known)}")

    asyncio.run(work())
    err().line((f"{name} is revoked", "dim"))
    return 0


@asynccontextmanager
async def _tokens(redis_url: str | None, data_dir: Path | None, config: Path | None) -> "AsyncIterator[Tokens]":
    store = find_store(redis_url, data_dir, Settings.load(os.environ, config))
    from runstore.adapters.store import RedisStore

    async with RedisStore.open(store.redis_url or "", **store.opening()) as opened:
        yield opened.tokens


def _scope(word: str) -> Scope:
    try:
        return Scope(word)
    except ValueError:
        raise Trouble(f"there is no scope {word!r}{nearest(word, Scope)}") from None


def _shown(token: TokenRecord) -> dict[str, object]:
    return {
        "name": token.name,
        "scopes": token.scopes,
        "projects": token.projects,
        "created_at": to_iso(token.created_at_s * 1_000_000),
        "expires_at": to_iso(token.expires_at_s * 1_000_000) if token.expires_at_s is not None else None,
    }


def _iso(at_s: int | None) -> str:
    return to_iso(at_s * 1_000_000)[:19].replace("T", " ") if at_s is not None else "never"


def _is_over(token: TokenRecord) -> bool:
    return token.expires_at_s is not None and token.expires_at_s <= time.time()
