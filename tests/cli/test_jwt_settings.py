"""`[auth.jwt]`: whose JWTs a gateway takes, and what stops it at start."""

import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from runstore.cli.auth import read_jwt
from runstore.cli.dev import plan
from runstore.config import Settings, SettingUnusable, variable
from runstore.core.claims import ClaimRules
from runstore.gateway import JwtConfig
from tests.cli.command import Command
from tests.cli.processes import run, started
from tests.gateway.issuer import issuing

ISSUER = 'issuer = "https://example.eu.auth0.com/"\n'
GOOD = ISSUER + 'audience = ["https://runstore.example"]\n'
CONTRACT = """
[auth.jwt]
issuer = "https://example.eu.auth0.com/"    # https, or http on loopback
audience = ["https://runstore.example"]
jwks_url = ""                               # unset: the issuer's .well-known/jwks.json
algorithms = ["RS256", "ES256"]
projects_claim = "https://runstore.example/projects"   # a claim holding project names
projects = []                               # for tokens without that claim; ["*"] is every project, [] none
"""


def read(text: str, environ: Mapping[str, str] | None = None) -> JwtConfig | None:
    Path("runstore.toml").write_text(text)
    return read_jwt(Settings.load(environ or {}))


def test_the_example_of_the_contract_is_read() -> None:
    jwt = read(CONTRACT)

    assert jwt is not None
    assert jwt.keys_url() == "https://example.eu.auth0.com/.well-known/jwks.json"
    assert jwt.rules() == ClaimRules(
        issuer="https://example.eu.auth0.com/",
        audience=frozenset({"https://runstore.example"}),
        projects_claim="https://runstore.example/projects",
        projects=frozenset(),
    )


@pytest.mark.parametrize(
    ("text", "projects"),
    [("", frozenset()), ("projects = []", frozenset()), ('projects = ["*"]', None), ('projects = ["a"]', {"a"})],
)
def test_without_a_claim_of_projects_the_settings_say_which_are_reached(
    text: str, projects: frozenset[str] | None
) -> None:
    jwt = read(f"[auth.jwt]\n{GOOD}{text}")

    assert jwt is not None
    assert (jwt.rules().projects_claim, jwt.rules().projects) == (None, projects)


@pytest.mark.parametrize("text", ["", "[auth]", "[auth.jwt]", '[auth.jwt]\nissuer = ""'])
def test_where_no_issuer_is_named_no_jwt_is_taken(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[auth.jtw]\n" + GOOD, r"unknown table \[auth.jtw\]; did you mean jwt\?"),
        ("[auth.oidc]\n" + GOOD, r"unknown table \[auth.oidc\]"),
        ("[auth]\njwt = 1", r"jwt of \[auth\] in runstore.toml must be a table, \[auth.jwt\]"),
        (
            "[auth.jwt]\nisuer = 'https://a'",
            r"\[auth.jwt\] in runstore.toml has no setting 'isuer'; did you mean issuer",
        ),
        (f"[auth.jwt]\n{GOOD}algorithm = ['RS256']", "did you mean algorithms"),
        (f"[auth.jwt]\n{GOOD}projects_clam = 'a'", "did you mean projects_claim"),
        ("[auth.jwt]\naudience = ['a']", "needs an issuer"),
        (f"[auth.jwt]\n{ISSUER}", "audience of .* must name"),
        (f"[auth.jwt]\n{ISSUER}audience = []", "audience of .* must name"),
        (f"[auth.jwt]\n{ISSUER}audience = ['']", "audience of .* must name"),
        (f"[auth.jwt]\n{ISSUER}audience = 'a'", "audience of .*expected array, got str"),
        (f"[auth.jwt]\n{GOOD}algorithms = []", "must name RS256, ES256 or both"),
        *(
            (f"[auth.jwt]\n{GOOD}algorithms = ['{bad}']", f"invalid enum value '{bad}'")
            for bad in ("HS256", "none", "RS512", "rs256")
        ),
        (f"[auth.jwt]\n{GOOD}projects = ['*', 'a']", "not both"),
        (f"[auth.jwt]\n{GOOD}projects = ['a b']", "no project name"),
        *(
            (f"[auth.jwt]\naudience = ['a']\nissuer = '{bad}'", says)
            for bad, says in [
                ("http://example.eu.auth0.com/", "must be https"),
                ("http://127.0.0.1.example.com/", "must be https"),
                ("http://localhost.example.com/", "must be https"),
                ("http://10.0.0.1/", "must be https"),
                ("example.eu.auth0.com", "must be an address"),
                ("file:///etc/passwd", "must be an address"),
                ("https://", "must be an address"),
                ("https://[::1", "is no address"),
                ("https://a:b", "is no address"),
                ("https://user:secret@a.example/", "neither a password nor a fragment"),
                ("https://a.example/#b", "neither a password nor a fragment"),
            ]
        ),
        (f"[auth.jwt]\n{GOOD}jwks_url = 'http://a.example/keys'", "jwks_url of .* must be https"),
    ],
)
def test_what_cannot_be_meant_stops_the_process_and_says_what_to_mend(text: str, says: str) -> None:
    with pytest.raises(SettingUnusable, match=says):
        read(text)


@pytest.mark.parametrize(
    "issuer", ["http://127.0.0.1:9/", "http://localhost/a", "http://[::1]:80", "https://a.example/b"]
)
def test_http_is_taken_on_loopback_only(issuer: str) -> None:
    jwt = read(f"[auth.jwt]\nissuer = '{issuer}'\naudience = ['a']")

    assert jwt is not None
    assert jwt.keys_url() == issuer.rstrip("/") + "/.well-known/jwks.json"


def test_variables_win_over_the_file_and_a_misspelt_one_is_named() -> None:
    environ = {variable("auth.jwt", "issuer"): "https://b.example", "RUNSTORE_AUTH_JWT_AUDIENCE": "a, b"}

    jwt = read(f"[auth.jwt]\n{GOOD}", environ)

    assert jwt is not None
    assert (jwt.issuer, jwt.audience) == ("https://b.example", ("a", "b"))
    with pytest.raises(SettingUnusable, match="did you mean RUNSTORE_AUTH_JWT_ISSUER"):
        Settings.load({"RUNSTORE_AUTH_JWT_ISUER": "x"}).check_variables({"auth.jwt": JwtConfig})
    Settings.load({"RUNSTORE_AUTH_JWT_ISUER": "of another process"}).check_variables({})


def test_a_gateway_without_an_issuer_loads_no_cryptography() -> None:
    import subprocess

    code = (
        "import sys; sys.modules['jwt'] = sys.modules['cryptography'] = None\n"
        "from runstore.gateway import Gateway; import runstore.cli.services, runstore.dev"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_dev_takes_the_issuer_too(tmp_path: Path) -> None:
    Path("runstore.toml").write_text(f"[auth.jwt]\n{GOOD}")

    wanted = plan(Settings.load({}), data_dir=tmp_path, gateway={})

    assert wanted.jwt == read(f"[auth.jwt]\n{GOOD}")


@pytest.mark.parametrize("service", ["gateway", "dev"])
def test_a_misspelt_setting_stops_the_command_with_a_sentence(command: Command, service: str) -> None:
    Path("runstore.toml").write_text("[auth.jwt]\nisuer = 'https://a.example'")

    said = command(service, "--redis-url", "redis://127.0.0.1:1")

    assert (said.code, said.out) == (2, "")
    assert "did you mean issuer?" in said.err


async def test_a_gateway_process_takes_the_jwts_of_the_issuer_in_its_file(redis_url: str, tmp_path: Path) -> None:
    async with issuing() as issuer, aiohttp.ClientSession() as session:
        (tmp_path / "runstore.toml").write_text(
            f'[auth.jwt]\nissuer = "{issuer.issuer}"\naudience = ["https://runstore.example"]\nprojects = ["*"]\n'
        )
        at = ("--redis-url", redis_url)
        with started("gateway", "--port", "0", *at, folder=tmp_path) as gateway:
            statuses = []
            for token in (issuer.token("runs:read"), issuer.token("runs:write"), issuer.token(exp=1)):
                headers = {"Authorization": f"Bearer {token}"}
                async with session.get(gateway.url + "/v1/runs", headers=headers) as response:
                    statuses.append(response.status)

            assert gateway.end() == 0, gateway.stderr
        listed = run("token", "list", *at, folder=tmp_path)

    assert statuses == [200, 403, 401]
    assert listed.returncode == 0, listed.stderr
