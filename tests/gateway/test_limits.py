"""The page on limits: each row is compared with the setting, and run into over a real socket to see what comes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from runstore.config import Settings, SettingUnusable
from runstore.core.event import MAX_EVENT_BYTES, MAX_JSON_DEPTH, MAX_OUTPUT_BYTES, MAX_TAG_CHARACTERS, MAX_TAGS
from runstore.gateway import GatewayConfig
from runstore.gateway.auth import MAX_BEARER_CHARACTERS
from runstore.gateway.cancel import _BODY_BYTES as CANCEL_BODY_BYTES
from runstore.gateway.query import MAX_LIMIT
from runstore.gateway.run_token import _BODY_BYTES as RUN_TOKEN_BODY_BYTES
from runstore.mcp.arguments import MOST_WAIT_S
from runstore.projector import Projector
from runstore.wire.messages import MAX_ID_CHARACTERS
from tests.gateway.builders import StandIn, site_over
from tests.gateway.limits import FIXED, SETTABLE

PAGE: Final = Path(__file__).parents[2] / "docs" / "limits.md"
NO_LIMITS: Final = frozenset(
    {
        *("host", "port", "reuse_port", "backlog", "allowed_origins"),
        *("tokens_refresh_s", "tokens_stale_s", "recheck_s", "sweep_s"),
        *("fold_wait_s", "store_timeout_s", "retry_s", "ready_lag_s", "ready_every_s", "partial_page_rounds"),
        *("inline_output_bytes", "cache_bytes", "big_outputs_at_once", "logs_poll_s"),
        *("stream_keepalive_s", "close_s", "finish_s", "shutdown_s"),
        *("metrics_access", "metrics_port", "metrics_host"),
    }
)
"""Settings that no caller can run into."""

MOST: Final = {
    "runs in a page of a listing": f"{MAX_LIMIT}",
    "tags of a run": f"{MAX_TAGS}",
    "characters of a tag": f"{MAX_TAG_CHARACTERS}",
    "characters of an `Idempotency-Key`": "255",
    "characters of a token": f"{MAX_BEARER_CHARACTERS:,}",
    "characters of a subscription's `id`": f"{MAX_ID_CHARACTERS}",
    "body of a request to cancel, or for a run token": f"{CANCEL_BODY_BYTES // 1024} KiB",
    "ranges in a `Range`": "1",
    "seconds that a tool for agents waits": f"{MOST_WAIT_S:g}",
}
TOP: Final = {
    "max_event_bytes": MAX_EVENT_BYTES,
    "max_output_bytes": MAX_OUTPUT_BYTES,
    "max_json_depth": MAX_JSON_DEPTH,
}
"""Settings that can only be lowered, and from what."""


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the table with a heading, by the cell that names each."""
    lines = PAGE.read_text("utf-8").partition(heading)[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[-3].strip("`") if len(row) == 4 else row[0]: row for row in cells}


SETTABLE_ROWS: Final = rows("| limit | setting | default | past it |")
FIXED_ROWS: Final = rows("| limit | most | past it |")
DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(GatewayConfig)}


def shown(setting: str) -> str:
    """Write the default of a setting as the page does."""
    value: Any = DEFAULTS[setting]
    if setting.endswith("_bytes"):
        mib, kib = divmod(value, 1024 * 1024)
        text = f"{mib:,} MiB" if not kib else f"{value // 1024:,} KiB"
    elif setting.endswith("requests_per_s"):
        text = f"{value:,.0f} a second"
    else:
        text = f"{value:,.0f} s" if setting.endswith("_s") else f"{value:,}"
    zero = "; 0: any number" if setting.endswith(("requests_per_s", "_per_address", "_per_token")) else ""
    return text + zero + (", and no more" if setting in TOP else "")


def test_the_page_has_every_limit_and_nothing_else() -> None:
    assert set(DEFAULTS) - NO_LIMITS == set(SETTABLE_ROWS) == set(SETTABLE)
    assert set(FIXED_ROWS) == set(FIXED) == set(MOST)


def test_the_page_says_the_defaults_that_there_are() -> None:
    assert {setting: row[2] for setting, row in SETTABLE_ROWS.items()} == {name: shown(name) for name in SETTABLE}
    assert {name: row[1] for name, row in FIXED_ROWS.items()} == MOST
    assert CANCEL_BODY_BYTES == RUN_TOKEN_BODY_BYTES


@pytest.fixture
async def store(gateway_store: StandIn) -> AsyncIterator[StandIn]:
    async with Projector(gateway_store.redis):
        yield gateway_store


@pytest.mark.parametrize("setting", SETTABLE)
async def test_past_each_limit_a_caller_gets_what_the_page_says(store: StandIn, setting: str) -> None:
    limit = SETTABLE[setting]

    async with site_over(store, **limit.settings) as site:
        came = await limit.run_into(site)

    assert came == SETTABLE_ROWS[setting][3]


@pytest.mark.parametrize("name", FIXED)
async def test_past_what_cannot_be_set_a_caller_gets_what_the_page_says(store: StandIn, name: str) -> None:
    async with site_over(store) as site:
        came = await FIXED[name].run_into(site)

    assert came == FIXED_ROWS[name][2]


@pytest.mark.parametrize("setting", sorted(SETTABLE))
def test_each_limit_is_set_by_a_variable_and_by_the_file(setting: str, tmp_path: Path) -> None:
    kind = float if setting.endswith("_s") and setting != "max_wait_s" else int
    (tmp_path / "runstore.toml").write_text(f"[gateway]\n{setting} = 7")
    name = f"RUNSTORE_GATEWAY_{setting.upper()}"

    by_file = Settings.load({}, tmp_path / "runstore.toml").record("gateway", GatewayConfig)
    by_variable = Settings.load({name: "9"}, tmp_path / "runstore.toml").record("gateway", GatewayConfig)

    assert (getattr(by_file, setting), getattr(by_variable, setting)) == (kind(7), kind(9))
    with pytest.raises(SettingUnusable, match=name):
        Settings.load({name: "-1"}, tmp_path / "runstore.toml").record("gateway", GatewayConfig)


@pytest.mark.parametrize("setting", TOP)
def test_what_the_store_itself_refuses_cannot_be_allowed_at_the_door(setting: str, tmp_path: Path) -> None:
    (tmp_path / "runstore.toml").write_text(f"[gateway]\n{setting} = {TOP[setting] + 1}")

    with pytest.raises(SettingUnusable, match=setting):
        Settings.load({}, tmp_path / "runstore.toml").record("gateway", GatewayConfig)


def test_the_settings_on_the_page_are_read(tmp_path: Path) -> None:
    told = PAGE.read_text("utf-8").partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "runstore.toml").write_text(told)

    config = Settings.load({}, tmp_path / "runstore.toml").record("gateway", GatewayConfig)

    assert (config.requests_per_s, config.connections_per_token) == (200.0, 500)
