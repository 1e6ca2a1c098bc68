"""Flags, then variables, then the file; and what is misspelt stops the process."""

from pathlib import Path

import pytest

from runstore.config import Settings, SettingUnusable, StoreSettings
from runstore.gateway.config import GatewayConfig


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings(text: str = "", **variables: str) -> Settings:
    Path("runstore.toml").write_text(text)
    return Settings.load(variables)


def refusal(text: str = "", **variables: str) -> str:
    with pytest.raises(SettingUnusable) as refused:
        _read_all(text, variables)
    return refused.value.detail


def _read_all(text: str, variables: dict[str, str]) -> None:
    read = settings(text, **variables)
    read.check_variables({"gateway": GatewayConfig})
    read.record("gateway", GatewayConfig)
    read.record("store", StoreSettings)
    read.refuse_auth()


def test_a_flag_wins_over_a_variable_and_that_over_the_file() -> None:
    read = settings(
        '[gateway]\nhost = "file"\nport = 1\nbacklog = 7', RUNSTORE_GATEWAY_HOST="variable", RUNSTORE_GATEWAY_PORT="2"
    )

    record = read.record("gateway", GatewayConfig, {"port": 3, "host": None})

    assert (record.host, record.port, record.backlog) == ("variable", 3, 7)
    assert record.max_headers == GatewayConfig().max_headers


def test_without_a_file_everything_has_its_default() -> None:
    assert Settings.load({}).record("gateway", GatewayConfig) == GatewayConfig()


def test_a_file_that_was_named_must_be_there() -> None:
    with pytest.raises(SettingUnusable, match="elsewhere"):
        Settings.load({}, Path("elsewhere.toml"))
    with pytest.raises(SettingUnusable, match="other"):
        Settings.load({"RUNSTORE_CONFIG": "other.toml"})


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    assert settings("[gateway]\nport = 5", RUNSTORE_GATEWAY_PORT="").record("gateway", GatewayConfig).port == 5


def test_a_variable_may_hold_several_values() -> None:
    read = settings(RUNSTORE_GATEWAY_ALLOWED_ORIGINS="https://a.example, https://b.example")

    record = read.record("gateway", GatewayConfig)

    assert record.allowed_origins == {"https://a.example", "https://b.example"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[gatway]\nport = 1", "did you mean gateway?"),
        ("[gateway]\nprot = 1", "did you mean port?"),
        ('[gateway]\nport = "x"', "port of [gateway]"),
        ('[store]\ndurability = "sure"', "durability of [store]"),
        ("port = 1", "port"),
        ("gateway = 1", "must be a table"),
        ("[gateway", "not valid TOML"),
        ('[auth.jwt]\nissuer = "https://example.org/"', "JWT"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(text: str, named: str) -> None:
    sentence = refusal(text)

    assert named in sentence
    assert "runstore.toml" in sentence


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("RUNSTORE_GATEWAY_PROT", "1", "did you mean RUNSTORE_GATEWAY_PORT?"),
        ("RUNSTORE_REDIS_ULR", "redis://x", "did you mean RUNSTORE_REDIS_URL?"),
        ("RUNSTORE_GATEWAY_PORT", "many", "RUNSTORE_GATEWAY_PORT"),
        ("RUNSTORE_DURABILITY", "sure", "RUNSTORE_DURABILITY"),
    ],
)
def test_what_is_wrong_in_a_variable_is_named(name: str, value: str, named: str) -> None:
    assert named in refusal(**{name: value})


def test_variables_that_kubernetes_sets_are_no_settings_of_ours() -> None:
    read = settings(RUNSTORE_GATEWAY_PORT="tcp://10.0.0.7:8080", RUNSTORE_SERVICE_HOST="10.0.0.7")

    read.check_variables({"gateway": GatewayConfig})

    assert read.record("gateway", GatewayConfig).port == 8080
