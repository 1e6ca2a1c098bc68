"""What a credential allows."""

from runstore.core.ids import RunId
from runstore.core.principal import Principal, Scope

RUN = RunId("66666666-6666-6666-6666-666666666666")


def test_admin_has_every_scope_and_others_only_their_own() -> None:
    admin = Principal(name="a", scopes=frozenset({Scope.ADMIN}))
    reader = Principal(name="r", scopes=frozenset({Scope.READ}))

    assert all(admin.may(scope) for scope in Scope)
    assert [scope for scope in Scope if reader.may(scope)] == [Scope.READ]


def test_a_token_of_some_projects_sees_only_their_runs() -> None:
    bound = Principal(name="b", scopes=frozenset({Scope.READ}), projects=frozenset({"mine"}))

    assert bound.may_see("mine", RUN)
    assert not bound.may_see("other", RUN)
    assert Principal(name="f", scopes=frozenset()).reaches("other")


def test_a_run_token_sees_its_one_run() -> None:
    token = Principal(name="t", scopes=frozenset({Scope.READ}), run_id=RUN)

    assert token.may_see("any", RUN)
    assert not token.may_see("any", RunId("x"))


def test_only_a_token_of_every_project_and_every_run_sees_all() -> None:
    everybody = Principal(name="a", scopes=frozenset({Scope.READ}))

    assert everybody.sees_all
    assert not Principal(name="b", scopes=frozenset({Scope.READ}), projects=frozenset({"x"})).sees_all
    assert not Principal(name="c", scopes=frozenset({Scope.READ}), run_id=RUN).sees_all
