"""Hostile git: refs that are options, commands or ways out, and whole repositories that somebody hostile wrote.

A run of them ends, well or not. Nothing that a repository names is run, and nothing is written outside of the run's
folder: not into the canary beside the repositories, nor into the repositories.
"""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

from tests.attack import odd
from tests.attack.attack import Attack, Plan, Tally, each
from tests.attack.kinds.hostile_repositories import WRITERS
from tests.attack.site import WITHIN_S, Site

REFS: tuple[dict[str, Any], ...] = tuple(
    {name: value}
    for name, values in (
        (
            "branch",
            ("--upload-pack=touch pwned", "-c", "--help", "HEAD", "@", "@{-1}", "main~1", "main^{tree}",
                "main:model.py", "refs/heads/main", "../main", "../../../../etc/passwd", "a..b",
             "$(touch pwned)", "`touch pwned`", "main;touch pwned", "main\ntouch pwned", "ma\x00in", "main.lock", "*",
             "m?in", "[m]ain", "main ", "é", "\u202e", "\x1b[2J", "x" * 200, "x" * 5000, "", "FETCH_HEAD", "-", "--",
                 "/main", "main/", "ext::sh -c touch% pwned"),
        ),
        (
            "commit_sha",
            ("--exec=touch pwned", "HEAD", "main", "abc", "0" * 40, "0000000", "f" * 40, "f" * 41, "g" * 40,
                "deadbee", "$(id)", "main\n", "../../x", "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
                "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", "1" * 200, "HEAD~100000", "DEADBEEF" * 5),
        ),
    )
    for value in values
)  # fmt: skip
ENDS = {"success", "failed"}


async def run(site: Site, tally: Tally, plan: Plan) -> None:
    """Ask for each ref of the healthy project, and for each hostile project, by its default branch and by odd refs."""
    before = await asyncio.to_thread(_fingerprint, site)
    cases: list[dict[str, Any]] = [{"project_name": name} for name in site.projects.hostile]
    cases += [{"project_name": "healthy", **ref} for ref in REFS]
    numbers = list(plan.numbers())
    ended: dict[str, str] = {}

    async def one(number: int) -> None:
        random = plan.random(number)
        case = (
            dict(cases[number])
            if number < len(cases)
            else {
                "project_name": random.choice((*site.projects.hostile, "healthy")),
                random.choice(("branch", "commit_sha")): odd.text(random),
            }
        )
        await _case(site, tally, case, number, ended)

    await each(iter(numbers), 4, one)
    for status in sorted({*ended.values()}):
        names = ", ".join(name for name, told in sorted(ended.items()) if told == status)
        tally.notes.append(f"repositories whose run ended as {status}: {names}")
    after = await asyncio.to_thread(_fingerprint, site)
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            tally.fail("a file outside of the run's folder that was written, changed or removed", told=path)


async def _case(site: Site, tally: Tally, case: dict[str, Any], number: int, ended: dict[str, str]) -> None:
    said = "x" if case["project_name"] == "healthy" else str(number)
    body = odd.written({**case, "inputs": {"said": said}, "timeout_s": 20})
    status, told = await _post(site, body)
    if status not in {200, 202}:
        tally.tried(status, len(body))
        if status != 422:
            tally.fail(f"a request that was answered with {status}", number, case, told)
        return
    run_id = told.decode().split('"run_id":"')[1][:36]
    async with site.client() as client:
        try:
            run = await client.wait(run_id, timeout_s=WITHIN_S)
        except Exception as error:
            tally.tried("no end")
            tally.fail("a run that did not end", number, case, repr(error))
            return
    tally.tried(run.status, len(body))
    if len(case) == 1:
        ended[case["project_name"]] = run.status
    if run.status not in ENDS:
        tally.fail(f"a run that ended as {run.status}", number, case, run.error_message)
    if "could not execute it" in (run.error_message or ""):
        tally.fail("a run that the worker itself broke off", number, case, run.error_message)


async def _post(site: Site, body: bytes) -> tuple[int, bytes]:
    import aiohttp

    headers = {"Authorization": f"Bearer {site.admin}", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as http,
        http.post(f"{site.url}/v1/runs", data=body) as answer,
    ):
        return answer.status, await answer.read()


def _fingerprint(site: Site) -> dict[str, str]:
    """Say what is in the canary and the repositories, and what lies about them and in the worker's folders."""
    found = {}
    worker = site.folder / "worker"
    loose = [*site.folder.iterdir(), *worker.iterdir(), *(worker / "data").iterdir(), *site.projects.folder.iterdir()]
    for path in loose:
        found[str(path)] = "here"
    for folder, _, files in os.walk(site.projects.folder):
        for name in files:
            path = Path(folder) / name
            found[str(path)] = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


ATTACK = Attack(
    name="git",
    checks="each run ends; nothing a repository names is run; nothing is written outside of the run's folder",
    least=4,
    most=len(REFS) + len(WRITERS) + 32,
    run=run,
)
