"""The dashboard's files: which there are, what a browser may do with them, and how long it keeps them."""

import re
from importlib.resources import files

import pytest

from runstore.core.principal import Scope
from runstore.gateway.pages import load_files
from runstore.projector import Projector
from tests.gateway.builders import Site, StandIn, site_over, until

STATIC = files("runstore.gateway") / "static"


def directives(policy: str) -> dict[str, list[str]]:
    return {name: values for name, *values in (part.split() for part in policy.split(";"))}


async def test_the_page_may_run_and_load_its_own_files_and_nothing_else(site: Site) -> None:
    reply = await site.get("/", token=None)
    policy = directives(reply.headers["Content-Security-Policy"])
    address = site.gateway.url.removeprefix("http://")

    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert policy.pop("connect-src") == ["'self'", f"ws://{address}", f"wss://{address}"]
    assert policy == {
        **{name: ["'none'"] for name in ("default-src", "base-uri", "form-action", "frame-ancestors")},
        **{name: ["'self'"] for name in ("script-src", "style-src", "img-src")},
        "require-trusted-types-for": ["'script'"],
        "trusted-types": ["'none'"],
    }
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Referrer-Policy"] == "no-referrer"


async def test_a_host_that_is_none_gets_into_no_policy(site: Site) -> None:
    for host in ("evil.example; script-src *", "a b", "x'self'", "*"):
        reply = await site.get("/", token=None, headers={"Host": host})

        assert host not in reply.headers["Content-Security-Policy"]
        assert directives(reply.headers["Content-Security-Policy"])["connect-src"] == ["'self'"]


async def test_the_files_of_the_page_are_kept_for_good_and_those_by_their_plain_name_asked_for_again(
    site: Site,
) -> None:
    page = (await site.get("/", token=None)).body.decode()
    named = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
    assert named

    for path in named:
        kept = await site.get("/" + path, token=None)
        plain = await site.get("/static/" + path.rpartition("/")[2], token=None)
        other = await site.get(f"/static/{'0' * 16}/{path.rpartition('/')[2]}", token=None)
        again = await site.get("/" + path, token=None, headers={"If-None-Match": kept.headers["ETag"]})

        assert "immutable" in kept.headers["Cache-Control"]
        assert plain.headers["Cache-Control"] == other.headers["Cache-Control"] == "no-cache"
        assert kept.body == plain.body == other.body
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", kept.headers["ETag"])


async def test_the_client_and_its_types_are_served_by_their_plain_names(site: Site) -> None:
    for name in ("runstore.js", "runstore.d.ts"):
        reply = await site.get(f"/static/{name}", token=None)
        assert reply.body == (STATIC / name).read_bytes()
    assert (await site.get("/static/runstore.js", token=None)).headers["Content-Type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "../pages.py",
            "..%2fpages.py",
            "%2e%2e/pages.py",
            "../../config.py",
            "/etc/passwd",
            "app.js/",
            "x/app.js",
        ),
        *("app.js%00", "index.html", "__init__.py", "app", "APP.JS", "0000000000000000/../app.js", "a" * 9000),
    ],
)
async def test_nothing_else_is_served(site: Site, name: str) -> None:
    reply = await site.get(f"/static/{name}", token=None)

    assert reply.status == 404
    assert reply.code == "not_found"


def test_no_file_has_anything_that_the_policy_would_refuse() -> None:
    for name, file in load_files().by_name.items():
        text = file.body.decode()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        if name.endswith(".html"):
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text), name
        assert not re.search(r"""(?:from|import|src=|href=|url\()\s*\(?["']?https?:""", text), name


async def test_the_health_of_the_store_is_told_to_readers_with_their_own_projects(site: Site) -> None:
    everything = await site.token(Scope.READ)
    bound = await site.token(Scope.READ, projects=("forecasts",))
    deaf = await site.token(Scope.PUBLISH)
    await until(lambda: _is_let_in(site, bound))

    told = (await site.get("/v1/store", token=everything)).json()

    assert list(told) == ["is_ready", "reason", "lag_s", "sockets", "dead_letters", "projects"]
    assert told.pop("projects") == ["forecasts", "secrets"]
    assert told == {"is_ready": True, "reason": "", "lag_s": 0.0, "sockets": 0, "dead_letters": 0}
    assert (await site.get("/v1/store", token=bound)).json()["projects"] == ["forecasts"]
    assert (await site.get("/v1/store", token=deaf)).code == "forbidden"
    assert (await site.get("/v1/store", token=None)).code == "unauthorized"


async def _is_let_in(site: Site, token: str) -> bool:
    return (await site.get("/v1/store", token=token)).status == 200


async def test_dead_letters_are_counted_over_all_partitions(gateway_store: StandIn) -> None:
    for number in range(3):
        run_id = f"{number}0000000-0000-4000-8000-000000000000"
        await gateway_store.log.append(run_id, b'{"status":"nonsense"}')  # type: ignore[arg-type]
    async with Projector(gateway_store.redis):
        await until(lambda: _are_dead(gateway_store, 3))

        async with site_over(gateway_store) as site:
            assert (await site.get("/v1/store")).json()["dead_letters"] == 3


async def _are_dead(store: StandIn, number: int) -> bool:
    return await store.dead_letters() == number


async def test_a_projector_that_is_away_shows_as_lag(gateway_store: StandIn) -> None:
    async with site_over(gateway_store, ready_every_s=0.02) as site:
        await gateway_store.log.append(
            "10000000-0000-4000-8000-000000000000",  # type: ignore[arg-type]
            b'{"run_id":"10000000-0000-4000-8000-000000000000","status":"running","project_name":"forecasts"}',
        )

        async def lags() -> bool:
            return ((await site.get("/v1/store")).json()["lag_s"] or 0) > 0.05

        await until(lags)
