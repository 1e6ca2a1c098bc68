"""Settings of JWTs: whose are taken."""

from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from runstore.core.claims import ClaimRules
from runstore.core.errors import InvalidRequest
from runstore.core.ids import check_project_name

EVERY_PROJECT: Final = "*"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_KEYS_OF_ISSUER: Final = "/.well-known/jwks.json"

Algorithm = Literal["RS256", "ES256"]


class JwtConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[auth.jwt]`: whose JWTs a gateway takes."""

    issuer: str = ""
    """The issuer, letter by letter as in the `iss` of its tokens: https, or http on loopback. Unset: none."""

    audience: tuple[str, ...] = ()
    """What a token may be made for: its `aud` must name one of these. At least one is needed."""

    jwks_url: str = ""
    """Where the issuer's keys are: https, or http on loopback. Unset: the issuer's `.well-known/jwks.json`."""

    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256")
    """The signatures that are taken."""

    projects_claim: str = ""
    """The claim that holds the names of the projects that a token reaches. Unset: no token has such a claim."""

    projects: tuple[str, ...] = ()
    """The projects that a token without that claim reaches: `["*"]` is every project, `[]` none."""

    def keys_url(self) -> str:
        """Return where the issuer's keys are."""
        return self.jwks_url or self.issuer.rstrip("/") + _KEYS_OF_ISSUER

    def rules(self) -> ClaimRules:
        """Return the rules for the claims of a token."""
        return ClaimRules(
            issuer=self.issuer,
            audience=frozenset(self.audience),
            projects_claim=self.projects_claim or None,
            projects=None if EVERY_PROJECT in self.projects else frozenset(self.projects),
        )


class JwtTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How the issuer's keys are kept. No settings: what suits one issuer suits all."""

    refresh_s: float = 300.0
    """Seconds between two looks at the keys."""

    retry_s: float = 5.0
    """Seconds after a look that failed until the next."""

    stale_s: float = 3600.0
    """Seconds for which keys are used while the issuer cannot be reached; then JWTs are 503."""

    fetch_timeout_s: float = 5.0
    """Seconds that a look may take."""

    unknown_burst: int = 3
    """Looks for a key that is not known that may follow each other at once."""

    unknown_every_s: float = 10.0
    """Seconds after which one more such look is allowed."""


def check_jwt(config: JwtConfig) -> JwtConfig:
    """Return the settings, if JWTs can be taken by them here.

    Raises: InvalidRequest, naming the setting to mend, or the extra to install.
    """
    if not config.issuer:
        raise InvalidRequest("[auth.jwt] needs an issuer, such as https://example.eu.auth0.com/")
    _check_url("issuer", config.issuer)
    if config.jwks_url:
        _check_url("jwks_url", config.jwks_url)
    if not all(config.audience) or not config.audience:
        raise InvalidRequest(
            "audience of [auth.jwt] must name what tokens are made for, such as ['https://runstore.example']: "
            "without it, a token that was made for another service would be taken"
        )
    if not config.algorithms:
        raise InvalidRequest("algorithms of [auth.jwt] must name RS256, ES256 or both")
    if EVERY_PROJECT in config.projects and len(config.projects) > 1:
        raise InvalidRequest("projects of [auth.jwt] is ['*'] or names of projects, not both")
    for name in config.projects:
        if name != EVERY_PROJECT:
            check_project_name(name)
    return config


def _check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise InvalidRequest(f"{name} of [auth.jwt] is no address: {url[:100]!r}") from None
    if parts.scheme not in {"https", "http"} or not host:
        raise InvalidRequest(f"{name} of [auth.jwt] must be an address such as https://example.eu.auth0.com/")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise InvalidRequest(
            f"{name} of [auth.jwt] must be https: over http, which is taken on loopback only, anybody on the way "
            "could put in keys of their own"
        )
    if "@" in parts.netloc or parts.fragment:
        raise InvalidRequest(f"{name} of [auth.jwt] can have neither a password nor a fragment")
