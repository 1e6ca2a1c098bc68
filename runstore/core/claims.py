"""What a verified JWT says about its bearer: the claims, by the rules of one issuer, become a principal.

RFC 8725 section 3 is the list that this follows. Everything is checked here rather than by a JWT library, which skips
a claim that is missing and takes numbers out of texts. A claim that cannot be read is an error, never as if it were
absent: an unreadable claim of projects must not open what is open to tokens without one.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from runstore.core.errors import Unauthorized
from runstore.core.principal import Principal, Scope

CLOCK_LEEWAY_S: Final = 60
"""How far the issuer's clock may be ahead of ours. The most that the contract allows."""

EXPIRY_LEEWAY_S: Final = 5
"""How long a token is taken after it has expired: short, since that is also how long it keeps a socket open."""

_REQUIRED: Final = ("exp", "iss", "aud", "sub")
_LATEST_S: Final = 2**53
_SCOPES: Final = {scope.value: scope for scope in Scope}


class ClaimRules(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens are taken, and what they allow.

    `projects_claim` holds project names; `projects` stands for it in tokens without that claim (None: every project).
    """

    issuer: str
    audience: frozenset[str]
    projects_claim: str | None = None
    projects: frozenset[str] | None = frozenset()


def read_claims(claims: Mapping[str, Any], rules: ClaimRules, now_s: float) -> Principal:
    """Say who the bearer of a token is, whose signature was checked.

    Raises: Unauthorized, with what is wrong about the token.
    """
    missing = [name for name in _REQUIRED if name not in claims]
    if missing:
        raise Unauthorized(f"a JWT must have {', '.join(_REQUIRED)}: this one lacks {', '.join(missing)}")
    if claims["iss"] != rules.issuer:
        raise Unauthorized(f"the token is of another issuer than {rules.issuer}: compare the texts, slash by slash")
    if not rules.audience.intersection(_texts(claims, "aud")):
        raise Unauthorized("the token was made for another audience than this gateway")
    subject = claims["sub"]
    if not isinstance(subject, str) or not subject:
        raise Unauthorized("the token's sub must be a text")
    expires_at_s = _time(claims, "exp") + EXPIRY_LEEWAY_S
    if now_s >= expires_at_s:
        raise Unauthorized("the token has expired: ask for a new one")
    for name in ("nbf", "iat"):
        if name in claims and now_s < _time(claims, name) - CLOCK_LEEWAY_S:
            raise Unauthorized(f"the token is not valid yet by its {name}: compare the clocks")
    return Principal(
        name=f"jwt:{rules.issuer} {subject}",
        scopes=frozenset(_SCOPES[word] for word in _words(claims) if word in _SCOPES),
        projects=_projects(claims, rules),
        expires_at_s=expires_at_s,
    )


def _projects(claims: Mapping[str, Any], rules: ClaimRules) -> frozenset[str] | None:
    if rules.projects_claim is None or rules.projects_claim not in claims:
        return rules.projects
    return frozenset(_texts(claims, rules.projects_claim))


def _words(claims: Mapping[str, Any]) -> list[str]:
    given = [text for name in ("scope", "permissions") if name in claims for text in _texts(claims, name)]
    return [word for text in given for word in text.split(" ")]


def _texts(claims: Mapping[str, Any], name: str) -> list[str]:
    told = claims[name]
    if isinstance(told, str):
        return [told]
    if isinstance(told, list) and all(isinstance(one, str) for one in told):
        return told
    raise Unauthorized(f"the token's {name} must be a text or a list of texts")


def _time(claims: Mapping[str, Any], name: str) -> float:
    told = claims[name]
    # True is a number to Python, and NaN is below nothing
    if isinstance(told, bool) or not isinstance(told, (int, float)) or not 0 <= told <= _LATEST_S:
        raise Unauthorized(f"the token's {name} must be a number of seconds since 1970")
    return told
