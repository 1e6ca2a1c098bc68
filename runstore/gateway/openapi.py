"""The OpenAPI 3.1 document, made from the routes and the types that their handlers use."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from runstore.gateway.answers import respond_json
from runstore.gateway.problems import CONTENT_TYPE, KINDS, Problem
from runstore.gateway.route import Param, Reply, Route
from runstore.wire.views import OutputView

DOCUMENT: Final = web.AppKey("openapi", bytes)
_REF: Final = "#/components/schemas/{name}"
_GENERAL: Final = (
    *("bad_request", "invalid_request", "head_too_large", "expectation_failed", "unsupported_media_type"),
    "internal_error",
)
_BEHIND_A_TOKEN: Final = ("unauthorized", "forbidden", "rate_limited", "store_unavailable")
_REST: Final = r"[\s\S]*"
_NO_BODY: Final = frozenset({"GET", "HEAD", "DELETE"})
_HEADERS: Final = {
    "ETag": "The entity tag of the answer, for If-None-Match.",
    "Runstore-Cursor": "A place from before the answer was read: what happens after it can be resumed from.",
    "Preference-Applied": "The wait that was held.",
    "Location": "The address of the run.",
    "Content-Range": "Which bytes of how many.",
    "Accept-Ranges": "bytes",
    "Retry-After": "Seconds after which to try again.",
    "RateLimit-Policy": "How many requests may be made, and in how many seconds (an IETF draft's field).",
    "RateLimit": "How many of them are left, and the seconds until all are again (an IETF draft's field).",
    "WWW-Authenticate": "How to authenticate.",
}

_PROBLEM_HEADERS: Final = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After", "RateLimit", "RateLimit-Policy"),
    503: ("Retry-After",),
}


async def get_openapi(request: web.Request) -> web.StreamResponse:
    """Answer with the document."""
    return respond_json(request.app[DOCUMENT])


def describe(routes: Iterable[Route], version: str) -> bytes:
    """Write the OpenAPI document of the routes."""
    routes = tuple(routes)
    types = [
        Problem,
        OutputView,
        *(reply.type for route in routes for reply in route.replies if reply.type is not None),
    ]
    types += [type_ for route in routes for type_ in (route.body, route.errors) if type_ is not None]
    _, schemas = msgspec.json.schema_components(_unique(types), ref_template=_REF)
    _describe_output(schemas)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "runstore",
            "version": version,
            "description": "Look runs up, ask for them, publish what becomes of them.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API token, JWT or run token. Each operation names its scope; admin has all.",
                }
            },
        },
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=0)


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "parameters": [_parameter(param) for param in route.params],
        "responses": _responses(route),
    }
    if route.is_open:
        operation["security"] = []
    else:
        operation["security"] = [{"bearer": [route.scope.value] if route.scope is not None else []}]
    if route.body is not None and route.method not in _NO_BODY:
        content = {"application/json": {"schema": _schema(route.body)}}
        operation["requestBody"] = {"required": not route.body_may_be_absent, "content": content}
    return operation


def _parameter(param: Param) -> dict[str, Any]:
    schema = _schema(list[param.type] if param.repeated else param.type)  # type: ignore[name-defined]
    told: dict[str, Any] = {
        "name": param.name,
        "in": param.where,
        "description": param.description,
        "required": param.where == "path",
        "schema": schema,
    }
    if param.repeated:
        told |= {"style": "form", "explode": True}
    return told


def _responses(route: Route) -> dict[str, Any]:
    told = {str(reply.status): _reply(reply) for reply in route.replies}
    codes = [*route.problems, *_GENERAL]
    codes += ["not_acceptable"] if route.media else []
    codes += [] if route.is_open else _BEHIND_A_TOKEN
    by_status: dict[int, list[str]] = {}
    for code in _unique(codes):
        by_status.setdefault(KINDS[code].status, []).append(code)
    for status, names in sorted(by_status.items()):
        problem: dict[str, Any] = {
            "description": f"{HTTPStatus(status).phrase}: {', '.join(names)}",
            "content": {CONTENT_TYPE: {"schema": _schema(Problem)}},
        }
        if route.errors is not None and 400 <= status < 500:
            problem["content"]["application/json"] = {"schema": _schema(route.errors)}
        if status in _PROBLEM_HEADERS:
            problem["headers"] = _headers(_PROBLEM_HEADERS[status])
        told[str(status)] = problem
    return told


def _reply(reply: Reply) -> dict[str, Any]:
    told: dict[str, Any] = {"description": reply.description}
    if reply.media is not None:
        # a part of a JSON text is no JSON text: nothing can be said of it but the type that the whole has
        told["content"] = {reply.media: {} if reply.status == HTTPStatus.PARTIAL_CONTENT else {"schema": _media(reply)}}
        if reply.stream is not None:
            told["content"][reply.stream] = {"schema": {"type": "string"}}
    if reply.headers:
        told["headers"] = _headers(reply.headers)
    return told


def _media(reply: Reply) -> dict[str, Any]:
    return _schema(reply.type) if reply.type is not None else {}


def _headers(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"description": _HEADERS[name], "schema": {"type": "string"}} for name in names}


def _schema(type_: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components((type_,), ref_template=_REF)
    return schema


def _describe_output(schemas: dict[str, Any]) -> None:
    if "RunView" in schemas:
        schemas["RunView"]["properties"]["output"] = {
            "anyOf": [{"$ref": _REF.format(name="OutputView")}, {"type": "null"}],
            "description": "What a successful run left, cut to 1 MiB; null for any other.",
        }


def _unique(items: Iterable[Any]) -> list[Any]:
    kept: list[Any] = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return kept


def router_path(route: Route) -> str:
    """Write an address as aiohttp's router takes it: a parameter goes up to the next slash, or is the rest."""
    rest = {param.name for param in route.params if param.is_rest}
    return re.sub(r"{(\w+)}", lambda found: f"{{{found[1]}:{_REST if found[1] in rest else '[^/]*'}}}", route.path)
