"""Every credential that there is, by name: what the tests of the door are generated from."""

import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import msgspec

from runstore.core.principal import Scope
from tests.gateway.builders import Site
from tests.gateway.issuer import Issuer

MINE, OTHERS = "forecasts", "secrets"
ALL = frozenset(Scope)


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway, the issuer it takes JWTs of, and runs in two projects that begin with the same digits."""

    site: Site
    issuer: Issuer
    mine: str
    sibling: str
    others: str


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A credential, how to get it, and what it is good for. `projects` None: every project."""

    name: str
    get: Callable[[Stage], Awaitable[str | None]]
    is_valid: bool = True
    scopes: frozenset[Scope] = frozenset()
    projects: frozenset[str] | None = None
    run: str | None = None

    def may(self, scope: Scope | None) -> bool:
        return scope is None or scope in self.scopes or Scope.ADMIN in self.scopes

    def reaches(self, project_name: str) -> bool:
        return self.run is None and (self.projects is None or project_name in self.projects)

    def sees(self, stage: Stage, run_id: str) -> bool:
        if self.run is not None:
            return run_id == getattr(stage, self.run)
        return self.reaches(OTHERS if run_id == stage.others else MINE)


async def stage_over(site: Site, issuer: Issuer) -> Stage:
    """Put the runs on: all have ended, and all their answers are kept by the gateway."""
    head = uuid4().hex[:8]
    ids = {name: f"{head}-{uuid4().hex[:4]}-4000-8000-{uuid4().hex[:12]}" for name in ("mine", "sibling", "others")}
    for name, run_id in ids.items():
        project_name = OTHERS if name == "others" else MINE
        await site.publish(run_id, status="success", project_name=project_name, output={"outputs": {"revenue": [1]}})
        assert (await site.get(f"/v1/runs/{run_id}")).status == 200
    return Stage(site=site, issuer=issuer, **ids)


async def run_token(stage: Stage, run_id: str, **body: Any) -> str:
    """Make a run token with a token that may read everything."""
    reply = await stage.site.post(f"/v1/runs/{run_id}/token", body or None)
    assert reply.status == 200, reply.body
    return str(reply.json()["token"])


def _fixed(bearer: str | None) -> Callable[[Stage], Awaitable[str | None]]:
    async def get(_: Stage) -> str | None:
        return bearer

    return get


def _api(*scopes: Scope, **options: Any) -> Callable[[Stage], Awaitable[str]]:
    async def get(stage: Stage) -> str:
        return await stage.site.token(*scopes, **options)

    return get


def _jwt(*scopes: str, **claims: Any) -> Callable[[Stage], Awaitable[str]]:
    async def get(stage: Stage) -> str:
        return stage.issuer.token(*scopes, **claims)

    return get


async def _revoked(stage: Stage) -> str:
    token = await stage.site.token(Scope.ADMIN)
    await stage.site.get("/v1/runs", token=token)
    await stage.site.store.tokens.revoke(token)
    while (await stage.site.get("/v1/runs", token=token)).status != 401:
        pass
    return token


async def _orphaned(stage: Stage) -> str:
    maker = await stage.site.token(Scope.ADMIN)
    made = await stage.site.post(f"/v1/runs/{stage.mine}/token", token=maker)
    await stage.site.store.tokens.revoke(maker)
    while (await stage.site.get(f"/v1/runs/{stage.mine}", token=made.json()["token"])).status != 401:
        pass
    return str(made.json()["token"])


async def _run_token_of_mine(stage: Stage) -> str:
    return await run_token(stage, stage.mine)


async def _run_token_of_sibling(stage: Stage) -> str:
    return await run_token(stage, stage.sibling)


async def _run_token_by_jwt(stage: Stage) -> str:
    made = await stage.site.post(f"/v1/runs/{stage.mine}/token", token=stage.issuer.token("runs:read"))
    return str(made.json()["token"])


CREDENTIALS = [
    Credential(name="none", get=_fixed(None), is_valid=False),
    Credential(name="garbage", get=_fixed("garbage"), is_valid=False),
    Credential(name="unknown API token", get=_fixed("rst_" + "0" * 36), is_valid=False),
    Credential(name="unknown run token", get=_fixed("rrt_" + "A" * 107), is_valid=False),
    Credential(name="expired API token", get=_api(*Scope, expires_at_s=int(time.time()) - 1), is_valid=False),
    Credential(name="revoked API token", get=_revoked, is_valid=False),
    Credential(name="API token without scopes", get=_api()),
    *(Credential(name=f"API token {scope.value}", get=_api(scope), scopes=frozenset({scope})) for scope in Scope),
    Credential(name="API token inside", get=_api(*Scope, projects=(MINE,)), scopes=ALL, projects=frozenset({MINE})),
    Credential(
        name="API token outside", get=_api(*Scope, projects=("else",)), scopes=ALL, projects=frozenset({"else"})
    ),
    Credential(name="run token of this run", get=_run_token_of_mine, scopes=frozenset({Scope.READ}), run="mine"),
    Credential(name="run token of another", get=_run_token_of_sibling, scopes=frozenset({Scope.READ}), run="sibling"),
    Credential(name="run token made with a JWT", get=_run_token_by_jwt, scopes=frozenset({Scope.READ}), run="mine"),
    Credential(name="run token of a revoked maker", get=_orphaned, is_valid=False),
    Credential(name="expired JWT", get=_jwt("admin", exp=1_000_000_000), is_valid=False),
    Credential(name="JWT for another audience", get=_jwt("admin", aud="https://other.example"), is_valid=False),
    Credential(name="JWT without scopes", get=_jwt("openid"), projects=frozenset({MINE})),
    *(
        Credential(
            name=f"JWT {scope.value}",
            get=_jwt(scope.value),
            scopes=frozenset({scope}),
            projects=frozenset({MINE}),
        )
        for scope in Scope
    ),
    Credential(name="JWT outside", get=_jwt("admin", projects=("else",)), scopes=ALL, projects=frozenset({"else"})),
    Credential(name="JWT without projects", get=_jwt("admin", projects=None), scopes=ALL, projects=frozenset()),
]
