"""`GET /metrics`: the numbers of this gateway and of the processes beside it, for Prometheus."""

from aiohttp import web

from runstore.core.errors import Forbidden, StoreUnavailable
from runstore.core.principal import Scope
from runstore.gateway.context import CALLER, services_of
from runstore.gateway.door import admit, check_scope
from runstore.gateway.problems import HttpProblem
from runstore.metrics.board import Unreadable


async def get_metrics(request: web.Request) -> web.StreamResponse:
    """Answer with the numbers, to whom the setting `metrics_access` lets see them."""
    services = services_of(request)
    match services.config.metrics_access:
        case "off":
            raise HttpProblem("not_found", "this gateway gives no metrics here: see the setting metrics_access")
        case "token":
            await admit(request, services, None)
            principal = request[CALLER].principal
            check_scope(principal, Scope.READ)
            if principal.projects is not None or principal.run_id is not None:
                raise Forbidden("the numbers are of all projects: ask with a token that is bound to none")
        case "open":
            pass
    try:
        body, media = await services.numbers.expose(", ".join(request.headers.getall("Accept", ())))
    except Unreadable as error:
        raise StoreUnavailable(str(error)) from None
    return web.Response(body=body, headers={"Content-Type": media, "Cache-Control": "no-store"})
