"""`POST /v1/runs/{id}/token`: a token for one run, read-only and short-lived, for a browser to watch it."""

from typing import Annotated, Final

import msgspec
from aiohttp import web

from runstore.core.run_token import DEFAULT_S, MAX_S
from runstore.core.times import to_iso
from runstore.gateway.answers import respond_json
from runstore.gateway.body import read_body
from runstore.gateway.context import CALLER, services_of
from runstore.wire.fields import read_fields
from runstore.wire.schema import RunIdText, TimeText
from runstore.wire.views import encode

_BODY_BYTES: Final = 64 * 1024


class RunTokenBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the token is to hold; it ends with the token that made it at the latest."""

    expires_s: Annotated[int, msgspec.Meta(ge=1, le=MAX_S)] = DEFAULT_S


class MadeRunToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token for one run, and when it ends."""

    token: str
    run_id: RunIdText
    expires_at: TimeText


_DECODER: Final = msgspec.json.Decoder(RunTokenBody)


async def post_run_token(request: web.Request) -> web.StreamResponse:
    """Answer with a token for one run.

    Needs: a caller by another credential than a run token.
    """
    services, caller = services_of(request), request[CALLER]
    told = await read_body(request, services, _BODY_BYTES)
    body = read_fields(told, _DECODER, max_depth=services.config.max_json_depth) if told.strip() else RunTokenBody()
    run_id = await services.resolver.resolve(caller.principal, request.match_info["run_id"])
    token, expires_at_s = await services.run_tokens.make(caller, run_id, body.expires_s)
    made = MadeRunToken(token=token, run_id=run_id, expires_at=to_iso(expires_at_s * 1_000_000))
    return respond_json(encode(made), headers={"Cache-Control": "no-store"})
