"""`runstore doctor`."""

import asyncio
import os
from typing import TYPE_CHECKING

import msgspec

from runstore.cli.exits import Exit
from runstore.cli.screen import out
from runstore.cli.target import Config, DataDir, Json, RedisUrl, find_store
from runstore.config import Settings

if TYPE_CHECKING:
    from runstore.adapters.diagnosis import StoreSeen
    from runstore.cli.findings import Finding

_WIDTH = 14


def doctor(*, redis_url: RedisUrl = None, data_dir: DataDir = None, json: Json = False, config: Config = None) -> int:
    """Look for what is wrong with a store, and say what to do. Nothing is changed.

    Exits with 0 if all is well, 1 if something is not, 5 if the store was not reached.
    """
    from runstore.adapters.diagnosis import look
    from runstore.cli.findings import judge

    store = find_store(redis_url, data_dir, Settings.load(os.environ, config))
    assert store.redis_url is not None
    seen = asyncio.run(look(store.redis_url, timeout_s=store.timeout_s))
    findings = judge(seen)
    is_well = all(finding.is_well for finding in findings)
    if json:
        out().json(_as_json(seen, findings, is_well=is_well))
    else:
        _show(findings)
    return Exit.SUCCESS if is_well else Exit.FAILED


def _show(findings: "list[Finding]") -> None:
    screen = out()
    for finding in findings:
        mark = ("✓", "green") if finding.is_well else ("✗", "bold red")
        screen.line(mark, " ", finding.name.ljust(_WIDTH), (finding.sentence, "" if finding.is_well else "red"))
    ill = sum(not finding.is_well for finding in findings)
    screen.line()
    screen.line("all is well" if not ill else f"{ill} of {len(findings)} need somebody")


def _as_json(seen: "StoreSeen", findings: "list[Finding]", *, is_well: bool) -> bytes:
    return msgspec.json.encode({"is_well": is_well, "findings": findings, "seen": seen})
