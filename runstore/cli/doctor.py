"""`runstore doctor`."""

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from runstore.cli.auth import read_jwt
from runstore.cli.exits import Exit
from runstore.cli.screen import Screen, err, out
from runstore.cli.target import Config, DataDir, Json, RedisUrl, find_store
from runstore.config import Settings, StoreSettings
from runstore.core.errors import StoreUnavailable

if TYPE_CHECKING:
    from runstore.cli.finding import Finding

_WIDTH = 14
Mend = Annotated[
    bool,
    Parameter(
        name="--mend",
        help="First set back logs that hold an id from the future, and send the events that ended processes left on "
        "this machine while the store was away.",
    ),
]


def doctor(
    *,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    mend: Mend = False,
    json: Json = False,
    config: Config = None,
) -> int:
    """Look for what is wrong with a store, and say what to do. Nothing is changed, but by --mend.

    Exits with 0 if all is well, 1 if something is not, 5 if the store was not reached.
    """
    from runstore.adapters.diagnosis import look
    from runstore.cli.findings import judge, judge_spools
    from runstore.cli.issuer import judge_issuer, look_at_issuer
    from runstore.publish.config import PublisherConfig
    from runstore.publish.spools import spool_root, waiting

    settings = Settings.load(os.environ, config)
    store, jwt = find_store(redis_url, data_dir, settings), read_jwt(settings)
    assert store.redis_url is not None
    folder = spool_root(PublisherConfig())
    try:
        if mend:
            asyncio.run(_mend(store))
        seen = asyncio.run(look(store.redis_url, timeout_s=store.timeout_s))
    except StoreUnavailable:
        if left := list(waiting(folder)):
            _show([judge_spools(left)], err())
        raise
    spools = list(waiting(folder))
    issuer = asyncio.run(look_at_issuer(jwt)) if jwt is not None else None
    findings = judge(seen, spools, durability=store.durability)
    findings += [judge_issuer(issuer)] if issuer is not None else []
    is_well = all(finding.is_well for finding in findings)
    if json:
        told = {"is_well": is_well, "findings": findings, "seen": seen, "spools": spools, "issuer": issuer}
        out().json(msgspec.json.encode(told))
    else:
        _show(findings, out())
        ill = sum(not finding.is_well for finding in findings)
        out().line()
        out().line("all is well" if not ill else f"{ill} of {len(findings)} need somebody")
    return Exit.SUCCESS if is_well else Exit.FAILED


async def _mend(settings: StoreSettings) -> None:
    from runstore.adapters.setback import set_back
    from runstore.adapters.store import RedisStore
    from runstore.publish import AsyncPublisher

    url = settings.redis_url or ""
    async with RedisStore.open(url, **settings.opening()) as store:
        for partition, moved in (await set_back(store)).items():
            err().line(f"partition {partition} was set back to now, and {moved} of its events were put in again")
    async with AsyncPublisher(url) as publisher:
        await publisher.deliver_abandoned()


def _show(findings: "list[Finding]", screen: Screen) -> None:
    for finding in findings:
        mark = ("✓", "green") if finding.is_well else ("✗", "bold red")
        screen.line(mark, " ", finding.name.ljust(_WIDTH), (finding.sentence, "" if finding.is_well else "red"))
