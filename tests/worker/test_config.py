"""The projects of runstore.toml, read strictly."""

import pytest

from runstore_worker.config import ConfigError, read_projects

GOOD = """
[projects.forecasts]
repository = "./forecasts"
command = ["python3", "model.py"]
"""


@pytest.fixture
def toml(tmp_path):
    def write(text: str):
        path = tmp_path / "runstore.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def refusal(path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_projects(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def test_a_project_has_defaults_for_all_but_repository_and_command(toml, tmp_path):
    project = read_projects(toml(GOOD))["forecasts"]

    assert (project.name, project.command) == ("forecasts", ("python3", "model.py"))
    assert (project.timeout_s, project.attempts, project.grace_s, project.env) == (600, 1, 10, {})
    assert project.source.url == str(tmp_path / "forecasts")


def test_every_setting_can_be_set(toml):
    more = 'timeout_s = 1.5\nattempts = 3\ngrace_s = 0\nenv = {A = "b"}\n'
    project = read_projects(toml(GOOD + more))["forecasts"]

    assert (project.timeout_s, project.attempts, project.grace_s, project.env) == (1.5, 3, 0, {"A": "b"})


def test_other_tables_are_not_the_workers_business(toml):
    assert list(read_projects(toml(GOOD + "[auth.jwt]\nissuer = 'x'\n"))) == ["forecasts"]
    assert read_projects(toml("")) == {}


def test_a_misspelt_setting_names_the_nearest_right_one(toml):
    said = refusal(toml(GOOD + "timeout = 5\n"))

    assert said == "projects.forecasts in FILE has no setting 'timeout'; did you mean timeout_s?"


def test_a_setting_like_nothing_names_them_all(toml):
    said = refusal(toml(GOOD + "zzz = 5\n"))

    assert "no setting 'zzz'; there are repository, command, timeout_s, attempts, grace_s, env" in said


@pytest.mark.parametrize("key", ["name", "folder"])
def test_what_the_worker_fills_in_is_no_setting(toml, key):
    assert f"no setting '{key}'" in refusal(toml(GOOD + f"{key} = 'x'\n"))


def test_a_misspelt_table_is_noticed(toml):
    assert "did you mean projects?" in refusal(toml(GOOD.replace("projects", "project")))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("attempts = '1'", "projects.forecasts.attempts in FILE: expected int, got str"),
        ("attempts = 0", "projects.forecasts.attempts in FILE: expected int >= 1"),
        ("attempts = true", "projects.forecasts.attempts in FILE: expected int, got bool"),
        ("timeout_s = 0", "projects.forecasts.timeout_s in FILE: expected float > 0.0"),
        ("timeout_s = inf", "projects.forecasts.timeout_s in FILE: expected float <= 2592000.0"),
        ("timeout_s = nan", "projects.forecasts.timeout_s in FILE: expected float > 0.0"),
        ("grace_s = -1", "projects.forecasts.grace_s in FILE: expected float >= 0.0"),
        ("env = {A = 1}", "projects.forecasts.env[...] in FILE: expected str, got int"),
        ("env = {RUNSTORE_RUN_ID = 'x'}", "projects.forecasts.env in FILE may not set RUNSTORE_RUN_ID"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(toml, line, said):
    assert refusal(toml(GOOD + line)).startswith(said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"model.py"', "1", "projects.forecasts.command[1] in FILE: expected str, got int"),
        ('["python3", "model.py"]', "[]", "projects.forecasts.command in FILE: expected array of length >= 1"),
        ('["python3", "model.py"]', '"python3"', "projects.forecasts.command in FILE: expected array, got str"),
        ("./forecasts", "ext::sh -c x", "projects.forecasts.repository in FILE: the transport ext"),
        ("./forecasts", "-x", "projects.forecasts.repository in FILE: '-x' is not a repository"),
        ('repository = "./forecasts"', "", "projects.forecasts in FILE: object missing required field repository"),
        ("[projects.forecasts]", "[projects.'a b']", "'projects.a b' in FILE names no project"),
        ("[projects.forecasts]", "[projects.'-x']", "'projects.-x' in FILE names no project"),
        ("[projects.forecasts]", "[projects.'']", "'projects.' in FILE names no project"),
        ("[projects.forecasts]", f"[projects.{'a' * 101}]", f"'projects.{'a' * 101}' in FILE names no project"),
        ("[projects.forecasts]", "[projects.'a\\n']", "'projects.a\\\\n' in FILE names no project"),
    ],
)
def test_a_wrong_project_is_named_by_its_place(toml, old, new, said):
    assert refusal(toml(GOOD.replace(old, new))).startswith(said)


@pytest.mark.parametrize("text", ["projects = 3", "[projects]\nx = 3", "[[projects]]"])
def test_what_should_be_a_table_is_said_to_be(toml, text):
    assert "must be" in refusal(toml(text))


def test_a_file_that_is_not_toml_or_not_there_is_said_to_be(toml, tmp_path):
    assert "is not valid TOML" in refusal(toml("[projects"))
    (tmp_path / "runstore.toml").write_bytes(b"\xff")
    assert "is not valid TOML" in refusal(tmp_path / "runstore.toml")
    assert "No such file" in refusal(tmp_path / "none.toml")


def test_a_project_name_may_have_slashes_and_dots(toml):
    assert list(read_projects(toml(GOOD.replace("forecasts]", '"team/a.b-1"]')))) == ["team/a.b-1"]
