"""Runs of the model that does what it is told: how an attack by a model is asked for, and what became of it."""

import json
from dataclasses import dataclass
from typing import Any

from tests.attack.attack import Tally
from tests.attack.site import Site

PROJECT = "obedient"
WITHIN_S = 240.0


@dataclass(frozen=True)
class Ended:
    """A run that has ended."""

    run_id: str
    status: str
    reason: str
    stdout: str
    stderr: str


async def obey(
    site: Site, tally: Tally, name: str, code: str, number: int, *, project: str = PROJECT, **asked: Any
) -> Ended | None:
    """Have a model do something, and wait for its end; None where there was none."""
    try:
        async with site.client() as client:
            run = await client.run(project, inputs={"code": code}, **asked)
            run = await client.wait(run.run_id, timeout_s=WITHIN_S)
    except Exception as error:
        tally.tried("no end")
        tally.fail(f"a run that did not end: {name}", number, code, repr(error))
        return None
    status, body = await site.ask("GET", f"/v1/runs/{run.run_id}/output")
    told: dict[str, Any] = json.loads(body) if status == 200 else {}
    tally.tried(run.status)
    return Ended(run.run_id, run.status, run.error_message or "", told.get("stdout") or "", told.get("stderr") or "")
