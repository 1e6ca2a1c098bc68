"""What is known about one route: enough to serve it, and to describe it."""

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any, Literal

import msgspec
from aiohttp import web

from runstore.core.principal import Scope


class Param(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of a route. `is_rest`: it is the rest of the address, whatever slashes that has."""

    name: str
    where: Literal["path", "query", "header"]
    description: str
    type: Any = str
    repeated: bool = False
    is_rest: bool = False


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One answer that is no problem. `type` None: the answer has no body, or none that a schema describes."""

    status: int
    description: str
    type: Any = None
    media: str | None = "application/json"
    stream: str | None = None
    headers: tuple[str, ...] = ()


class Route(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One method at one address. `scope` None: any valid token will do; `is_open`: none is needed.

    `for_run_token`: a run token will do, for its own run. `counts_itself`: its handler counts requests, since it has
    other words for too many. `errors`: how errors of the protocol that is spoken there are told, where that is another
    way than by problems.
    """

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str
    replies: tuple[Reply, ...]
    scope: Scope | None = None
    params: tuple[Param, ...] = ()
    body: Any = None
    body_may_be_absent: bool = False
    problems: tuple[str, ...] = ()
    errors: Any = None
    is_open: bool = False
    is_websocket: bool = False
    for_run_token: bool = False
    counts_itself: bool = False

    @cached_property
    def media(self) -> tuple[str, ...]:
        """The media types that the route gives; none where it is open, since whoever probes it reads the status."""
        given = [media for reply in self.replies for media in (reply.media, reply.stream) if media is not None]
        return () if self.is_open else tuple(dict.fromkeys(given))

    @cached_property
    def query_names(self) -> frozenset[str]:
        """The query parameters that the route knows."""
        return frozenset(param.name for param in self.params if param.where == "query")
