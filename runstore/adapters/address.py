"""Where a URL leads: to one server, to whichever server Sentinels call the primary, or to a cluster."""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from redis.asyncio.connection import parse_url

_END_OF_AUTHORITY: Final = re.compile("[/?#]")
_SCHEMES: Final = ("redis", "rediss", "unix")
_KINDS: Final = "redis://, rediss://, unix://, redis+sentinel:// and redis+cluster://"


class Kind(StrEnum):
    """What is at the address."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_DEFAULT_PORT: Final = {Kind.SENTINEL: 26379, Kind.CLUSTER: 6379}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, read. `whole` is the URL of a single server; the rest is of Sentinels and clusters.

    `nodes` are those to begin with, `login` what stands before the `@`, `service` the name that Sentinels know,
    `sentinel` their own user and password, `rest` the database and the options for each server.
    """

    kind: Kind
    whole: str = ""
    scheme: str = "redis"
    login: str = ""
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel: tuple[tuple[str, str], ...] = ()
    rest: str = ""

    def url_of(self, host: str, port: int) -> str:
        """Write the URL of one server of it."""
        shown = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{self.login}{shown}:{port}{self.rest}" if not self.whole else self.whole


def read_address(url: str) -> Address:
    """Read a URL.

    Raises: ValueError, with what to mend.
    """
    scheme, _, _ = url.partition("://")
    plain, _, kind = scheme.lower().partition("+")
    if kind:
        if plain not in ("redis", "rediss") or kind not in ("sentinel", "cluster"):
            raise ValueError(f"it begins with none of {_KINDS}")
        return _read_several(url, plain, Kind(kind))
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"it begins with none of {_KINDS}")
    if parts.scheme != "unix":
        if parts.port == 0:
            raise ValueError("its port is 0")
        _check_database(parts.path)
    elif not parts.path:
        raise ValueError("it names no socket")
    return Address(kind=Kind.SERVER, whole=url)


def address_of(url: str) -> str | None:
    """Name the server and database that a URL leads to, without user and password; None where it leads nowhere."""
    try:
        address = read_address(url)
        if address.kind is not Kind.SERVER:
            nodes = ",".join(f"{host}:{port}" for host, port in address.nodes)
            where = f"{nodes}/{address.service}" if address.service else nodes
            return f"{address.scheme}+{address.kind.value}://{where}{address.rest.partition('?')[0]}"
        told: dict[str, Any] = dict(parse_url(url))
        scheme, database = urlsplit(url).scheme, int(told.get("db") or 0)
    except (ValueError, TypeError, AttributeError):
        return None
    if scheme == "unix":
        return f"unix://{told.get('path', '')}" + (f"?db={database}" if database else "")
    return f"{scheme}://{told.get('host', 'localhost')}:{told.get('port', 6379)}/{database}"


def _read_several(url: str, scheme: str, kind: Kind) -> Address:
    # by hand: several hosts are no authority of RFC 3986, and urlsplit refuses those with an IPv6 address among them
    told = url.partition("://")[2]
    authority = _END_OF_AUTHORITY.split(told, maxsplit=1)[0]
    parts = urlsplit("//host" + told[len(authority) :])
    login, at, hosts = authority.rpartition("@")
    nodes = tuple(_nodes(hosts, _DEFAULT_PORT[kind]))
    path = [part for part in parts.path.split("/") if part]
    service = ""
    if kind is Kind.SENTINEL:
        if not path:
            raise ValueError("after the Sentinels comes the name of their service, such as /mymaster")
        service, *path = path
    if len(path) > 1:
        raise ValueError("it has more parts than the name of a database")
    _check_database("".join(path))
    if kind is Kind.CLUSTER and path and int(path[0]):
        raise ValueError("a cluster has the database 0 only")
    options = parse_qsl(parts.query, keep_blank_values=True)
    rest = [option for option in options if not option[0].startswith("sentinel_")]
    theirs = tuple((name.removeprefix("sentinel_"), value) for name, value in options if (name, value) not in rest)
    for name, _ in theirs:
        if kind is not Kind.SENTINEL or name not in ("username", "password"):
            raise ValueError(f"there is no option sentinel_{name}")
    database = f"/{path[0]}" if path else ""
    return Address(
        kind=kind,
        scheme=scheme,
        login=login + at,
        nodes=nodes,
        service=service,
        sentinel=theirs,
        rest=database + (f"?{urlencode(rest)}" if rest else ""),
    )


def _nodes(hosts: str, default_port: int) -> Iterator[tuple[str, int]]:
    for text in hosts.split(","):
        parts = urlsplit(f"//{text}")
        port = parts.port if parts.port is not None else default_port
        if not parts.hostname or not port:
            raise ValueError(f"{text[:60]!r} is no host and port")
        yield parts.hostname, port


def _check_database(path: str) -> None:
    if path.strip("/") and not path.strip("/").isdigit():
        raise ValueError("after the host comes the number of a database, such as /0")
