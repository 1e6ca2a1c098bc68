"""What the claims of a JWT say about its bearer, and what is wrong about them (RFC 8725, section 3)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.claims import CLOCK_LEEWAY_S, EXPIRY_LEEWAY_S, ClaimRules, read_claims
from runstore.core.errors import Unauthorized
from runstore.core.principal import Principal, Scope

NOW = 1_800_000_000
CLAIM = "https://runstore.example/projects"
RULES = ClaimRules(issuer="https://a.example/", audience=frozenset({"runs", "more"}), projects_claim=CLAIM)
GONE = object()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def claims(**changes: Any) -> dict[str, Any]:
    said = {"iss": "https://a.example/", "aud": "runs", "sub": "someone", "exp": NOW + 60, **changes}
    return {name.replace("projects", CLAIM): value for name, value in said.items() if value is not GONE}


def read(rules: ClaimRules = RULES, now_s: float = NOW, **changes: Any) -> Principal:
    return read_claims(claims(**changes), rules, now_s)


def test_a_token_is_its_subject_by_its_issuer_until_it_expires() -> None:
    principal = read(scope="runs:read")

    assert principal == Principal(
        name="jwt:https://a.example/ someone",
        scopes=frozenset({Scope.READ}),
        projects=frozenset(),
        expires_at_s=NOW + 60 + EXPIRY_LEEWAY_S,
    )


@pytest.mark.parametrize(
    ("changes", "scopes"),
    [
        ({}, set()),
        ({"scope": ""}, set()),
        ({"scope": "openid runs:read  runs:write profile"}, {Scope.READ, Scope.WRITE}),
        ({"permissions": ["runs:publish", "other"]}, {Scope.PUBLISH}),
        ({"scope": "runs:read", "permissions": ["admin"]}, {Scope.READ, Scope.ADMIN}),
        ({"scope": ["runs:read", "runs:write"]}, {Scope.READ, Scope.WRITE}),
        ({"scope": "RUNS:READ runs:read2 runs:*"}, set()),
    ],
)
def test_scopes_come_from_scope_and_from_permissions(changes: dict[str, Any], scopes: set[Scope]) -> None:
    assert read(**changes).scopes == scopes


@pytest.mark.parametrize(
    ("said", "projects", "reached"),
    [
        (["a", "b"], frozenset(), {"a", "b"}),
        ("a", frozenset(), {"a"}),
        ([], None, set()),
        (["*"], frozenset(), {"*"}),
        (GONE, frozenset(), set()),
        (GONE, frozenset({"c"}), {"c"}),
        (GONE, None, None),
    ],
)
def test_projects_come_from_the_claim_and_only_without_it_from_the_settings(
    said: Any, projects: frozenset[str] | None, reached: set[str] | None
) -> None:
    rules = ClaimRules(issuer=RULES.issuer, audience=RULES.audience, projects_claim=CLAIM, projects=projects)

    assert read(rules, projects=said).projects == reached


def test_a_claim_of_projects_means_nothing_where_none_is_configured() -> None:
    rules = ClaimRules(issuer=RULES.issuer, audience=RULES.audience, projects=frozenset({"c"}))

    assert read(rules, projects=["a"]).projects == {"c"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        *(({name: GONE}, f"lacks {name}") for name in ("exp", "iss", "aud", "sub")),
        ({"iss": "https://a.example"}, "another issuer"),
        ({"iss": "https://A.example/"}, "another issuer"),
        ({"iss": ["https://a.example/"]}, "another issuer"),
        ({"aud": "run"}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": ["other", "runs2"]}, "another audience"),
        ({"aud": None}, "aud must be"),
        ({"aud": [["runs"]]}, "aud must be"),
        ({"aud": {"runs": 1}}, "aud must be"),
        ({"sub": ""}, "sub must be"),
        ({"sub": 7}, "sub must be"),
        ({"exp": NOW - EXPIRY_LEEWAY_S}, "expired"),
        ({"exp": 0}, "expired"),
        *(
            ({name: bad}, f"{name} must be a number")
            for name in ("exp", "nbf", "iat")
            for bad in ("1900000000", None, True, -1, 10**400, float("nan"), float("inf"), [NOW])
        ),
        ({"nbf": NOW + CLOCK_LEEWAY_S + 1}, "not valid yet by its nbf"),
        ({"iat": NOW + CLOCK_LEEWAY_S + 1}, "not valid yet by its iat"),
        *(({"projects": bad}, "must be a text or a list") for bad in (None, 1, True, ["a", 1], {"a": 1})),
        *(({name: bad}, f"{name} must be") for name in ("scope", "permissions") for bad in (None, 1, [1], {})),
    ],
)
def test_a_claim_that_is_missing_wrong_or_unreadable_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(Unauthorized, match=says):
        read(**changes)


def test_clocks_may_differ_a_little() -> None:
    assert CLOCK_LEEWAY_S <= 60
    assert EXPIRY_LEEWAY_S <= 60
    read(exp=NOW - EXPIRY_LEEWAY_S + 0.5, nbf=NOW + CLOCK_LEEWAY_S, iat=NOW + CLOCK_LEEWAY_S)
    read(aud=["other", "more"])


@given(name=st.sampled_from(["exp", "iss", "aud", "sub", "nbf", "iat", "scope", "permissions", "projects"]), said=JSON)
def test_whatever_a_claim_holds_it_is_read_or_refused(name: str, said: Any) -> None:
    try:
        principal = read(**{name: said})
    except Unauthorized:
        return
    assert principal.expires_at_s is not None
    assert principal.projects is not None
