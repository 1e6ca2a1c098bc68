"""Settings: which source wins, and what is said about one that is misspelt."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from runstore.config import ClientSettings, Settings, SettingUnusable, StoreSettings, variable
from runstore.gateway.config import GatewayConfig


def settings(text: str = "", environ: Mapping[str, str] | None = None) -> Settings:
    Path("runstore.toml").write_text(text)
    return Settings.load(environ or {})


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file() -> None:
    said = settings(
        "[gateway]\nport = 1\nhost = 'a'\nkeepalive_s = 5", {"RUNSTORE_GATEWAY_PORT": "2", "RUNSTORE_GATEWAY_HOST": "b"}
    )

    record = said.record("gateway", GatewayConfig, {"port": 3, "host": None})

    assert (record.port, record.host, record.keepalive_s) == (3, "b", 5.0)
    assert record.backlog == GatewayConfig().backlog


def test_the_variables_of_client_and_store_leave_the_table_out() -> None:
    said = settings(
        "", {"RUNSTORE_URL": "http://a", "RUNSTORE_REDIS_URL": "redis://b", "RUNSTORE_DURABILITY": "fsynced"}
    )

    assert said.record("client", ClientSettings).url == "http://a"
    assert said.record("store", StoreSettings) == StoreSettings(redis_url="redis://b", durability="fsynced")


def test_an_empty_variable_says_nothing() -> None:
    assert settings("", {"RUNSTORE_URL": ""}).record("client", ClientSettings).url is None


def test_a_variable_may_hold_several() -> None:
    said = settings("", {"RUNSTORE_GATEWAY_ALLOWED_ORIGINS": "https://a, https://b"})

    assert said.record("gateway", GatewayConfig).allowed_origins == {"https://a", "https://b"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[gatway]", r"unknown table \[gatway\]; did you mean gateway\?"),
        ("gateway = 1", "must be a table"),
        ("port = 1", "unknown table"),
        ("[gateway", "not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_every_command(text: str, sentence: str) -> None:
    with pytest.raises(SettingUnusable, match=sentence):
        settings(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[gateway]\nprot = 1", r"\[gateway\] in runstore.toml has no setting 'prot'; did you mean port\?"),
        ("[gateway]\nport = 'x'", r"port of \[gateway\] in runstore.toml: expected int, got str"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(text: str, sentence: str) -> None:
    with pytest.raises(SettingUnusable, match=sentence):
        settings(text).record("gateway", GatewayConfig)


def test_a_variable_of_the_wrong_kind_is_named() -> None:
    with pytest.raises(SettingUnusable, match="RUNSTORE_GATEWAY_PORT: expected int"):
        settings("", {"RUNSTORE_GATEWAY_PORT": "many"}).record("gateway", GatewayConfig)


def test_bytes_that_are_no_text_are_told_and_not_raised() -> None:
    Path("runstore.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(SettingUnusable, match="not valid TOML"):
        Settings.load({})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RUNSTORE_GATEWAY_PROT", "RUNSTORE_GATEWAY_PORT"),
        ("RUNSTORE_REDISURL", "RUNSTORE_REDIS_URL"),
        ("RUNSTORE_TOKN", "RUNSTORE_TOKEN"),
    ],
)
def test_a_misspelt_variable_stops_a_service_and_names_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(SettingUnusable, match=f"did you mean {meant}"):
        settings("", {name: "1"}).check_variables({"gateway": GatewayConfig})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNSTORE_SERVICE_HOST", "10.0.0.7"),
        ("RUNSTORE_GATEWAY_PORT", "tcp://10.0.0.7:8080"),
        ("RUNSTORE_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.7"),
        ("RUNSTORE_GATEWAY_SERVICE_PORT", "8080"),
        ("RUNSTORE_GATEWAY_SERVICE_PORT_HTTP", "8080"),
        ("RUNSTORE_PROJECT", "forecasts"),
        ("RUNSTORE_SPOOL_DIR", "/var/spool/runstore"),
        ("RUNSTORE_WORKER_SLOTS", "of another process"),
    ],
)
def test_what_kubernetes_and_other_processes_set_is_no_misspelling(name: str, value: str) -> None:
    said = settings("", {name: value})

    said.check_variables({"gateway": GatewayConfig})

    assert said.record("gateway", GatewayConfig) == GatewayConfig()


def test_every_field_of_a_record_has_a_variable() -> None:
    fields = {field.name for field in msgspec.structs.fields(GatewayConfig)}

    assert {variable("gateway", field) for field in fields} >= {"RUNSTORE_GATEWAY_HOST", "RUNSTORE_GATEWAY_PORT"}


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    assert Settings.load({}).data == {}
    with pytest.raises(SettingUnusable, match="there is no file"):
        Settings.load({}, tmp_path / "no.toml")
    with pytest.raises(SettingUnusable, match="there is no file"):
        Settings.load({"RUNSTORE_CONFIG": "no.toml"})
