"""Whether the gateway lives, and whether it can do its work."""

import msgspec
from aiohttp import web

from runstore.core.errors import StoreUnavailable
from runstore.gateway.answers import respond_json
from runstore.gateway.context import services_of
from runstore.wire.views import encode


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How the gateway is."""

    status: str


async def get_healthz(_: web.Request) -> web.StreamResponse:
    """Answer that the process lives."""
    return respond_json(encode(Health(status="alive")))


async def get_readyz(request: web.Request) -> web.StreamResponse:
    """Answer whether the store can be reached and the projector keeps up."""
    services = services_of(request)
    if services.stopping.is_set():
        raise StoreUnavailable("the gateway is stopping")
    if services.readiness.reason:
        raise StoreUnavailable(services.readiness.reason)
    return respond_json(encode(Health(status="ready")))
