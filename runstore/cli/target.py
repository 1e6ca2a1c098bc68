"""Where a command finds its gateway or its store: flags, variables, the file, then a `dev` on this folder."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter

from runstore.cli.exits import Exit, Trouble
from runstore.config import ClientSettings, Settings, StoreSettings
from runstore.endpoints import DATA_DIR, Endpoints, find

if TYPE_CHECKING:
    from runstore.client import AsyncClient

Url = Annotated[
    str | None, Parameter(help="The gateway's address [RUNSTORE_URL]; else that of a dev running on this folder.")
]
Token = Annotated[str | None, Parameter(allow_leading_hyphen=True, help="An API token or JWT [RUNSTORE_TOKEN].")]
Config = Annotated[
    Path | None, Parameter(help="The settings file [RUNSTORE_CONFIG]; else runstore.toml, if it is here.")
]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON.")]
RedisUrl = Annotated[
    str | None, Parameter(help="The store: redis://…, redis+sentinel://… or redis+cluster://… [RUNSTORE_REDIS_URL].")
]
DataDir = Annotated[Path | None, Parameter(help="The data folder of a running dev; .runstore unless told.")]

_RETRY_FOR_S: Final = 2.0
_GIVE_UP_S: Final = 60.0  # a gateway that is restarted comes back in less; somebody at a terminal waits no longer
_CONNECT_S: Final = 5.0


class Gateway(msgspec.Struct, frozen=True):
    """A gateway's address and the token to send there."""

    url: str
    token: str | None


def find_gateway(url: str | None, token: str | None, config: Path | None) -> Gateway:
    """Find the gateway. A token goes to the address that it was given for, and to no other.

    Raises: Trouble; SettingUnusable.
    """
    settings = Settings.load(os.environ, config)
    settings.check_variables({})
    said = settings.record("client", ClientSettings)
    here = find(DATA_DIR) if url is None or token is None else None
    address = url or said.url or (here.url if here else None)
    if address is None:
        raise Trouble(
            "which gateway? Give --url, or set RUNSTORE_URL, or start one here with `runstore dev`", Exit.USAGE
        )
    if token is None and said.token and (said.url is None or _same(address, said.url)):
        token = said.token
    if token is None and here is not None and _same(address, here.url):
        token = here.token
    if token is None and said.token:
        raise Trouble(
            f"the token that is set belongs to {said.url}, and goes to no other address: give --token for {address}",
            Exit.USAGE,
        )
    return Gateway(address, token)


def connect(url: str | None, token: str | None, config: Path | None) -> "AsyncClient":
    """Make a client for the gateway that `find_gateway` finds.

    Raises: Trouble; SettingUnusable; InvalidRequest for an address that cannot be.
    """
    from runstore.client import AsyncClient, ClientConfig

    gateway = find_gateway(url, token, config)
    patience = ClientConfig(retry_for_s=_RETRY_FOR_S, give_up_s=_GIVE_UP_S, connect_timeout_s=_CONNECT_S)
    return AsyncClient(gateway.url, token=gateway.token or "", config=patience)


def find_store(redis_url: str | None, data_dir: Path | None, settings: Settings) -> StoreSettings:
    """Find the store: an address, or a running `dev`.

    Raises: Trouble; SettingUnusable.
    """
    settings.check_variables({})
    if data_dir is not None and redis_url is None:
        here = find(data_dir)
        if here is None:
            raise Trouble(f"no runstore dev is running on the data folder {data_dir}", Exit.UNREACHABLE)
        redis_url = here.redis_url
    said = settings.record("store", StoreSettings, {"redis_url": redis_url})
    if said.redis_url is not None:
        return said
    here = find(DATA_DIR)
    if here is None:
        raise Trouble(
            "which store? Give --redis-url, or set RUNSTORE_REDIS_URL, or --data-dir of a running `runstore dev`"
        )
    return msgspec.structs.replace(said, redis_url=here.redis_url)


def dev_here(data_dir: Path | None) -> Endpoints | None:
    """Return what runs on a data folder, if something does."""
    return find(data_dir or DATA_DIR)


def _same(url: str, other: str) -> bool:
    return url.rstrip("/") == other.rstrip("/")
