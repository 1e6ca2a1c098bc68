"""`runstore exec`: publish what becomes of any command, from cron, make or a CI job, and hardly be noticed.

The store decides nothing here: while it is away, the command runs all the same, and the end waits in the spool.
"""

import asyncio
import logging
import math
import os
import socket
from pathlib import Path
from typing import Annotated, Final
from uuid import uuid4

from cyclopts import Parameter

from runstore.cli.exits import Trouble
from runstore.cli.screen import err
from runstore.cli.target import Config, DataDir, RedisUrl, find_store
from runstore.config import Settings
from runstore.core.ids import RunId, check_project_name, parse_run_id
from runstore.core.status import Status
from runstore.core.trace import read_traceparent

_GIT_S: Final = 2.0
_SHORT: Final = 8


def exec_(
    *command: Annotated[str, Parameter(help="The command and its arguments, behind --.")],
    project: Annotated[str | None, Parameter(help="The run's project [RUNSTORE_PROJECT].")] = None,
    run_id: Annotated[str | None, Parameter(help="The id to give it, a UUID; else a new one.")] = None,
    tag: Annotated[tuple[str, ...], Parameter(help="A tag to find it by; may be repeated.")] = (),
    commit_sha: Annotated[
        str | None, Parameter(help="The commit it runs; else HEAD of the repository here. '' for none.")
    ] = None,
    timeout_s: Annotated[float | None, Parameter(help="End it after so many seconds, all its processes.")] = None,
    traceparent: Annotated[str | None, Parameter(help="The W3C trace that it belongs to [TRACEPARENT].")] = None,
    quiet: Annotated[bool, Parameter(help="Do not say on stderr how the run ended.")] = False,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> int:
    """Run a command, and publish what becomes of it: success when it exits with 0.

    Exits as the command does: with its code, 128 and the number of a signal that ended it, 127 where it was not found,
    126 where it cannot be executed, 124 past --timeout-s. With 2 where nothing was run, as something is missing here.
    """
    if not command:
        raise Trouble("which command? Give it behind --: runstore exec --project NAME -- make forecast")
    if timeout_s is not None and not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise Trouble("--timeout-s: give a number of seconds above 0")
    if traceparent is not None and read_traceparent(traceparent) is None:
        raise Trouble(f"--traceparent {traceparent[:60]!r} is none: it looks like 00-<32 hex>-<16 hex>-01")
    named = project or os.environ.get("RUNSTORE_PROJECT")
    if not named:
        raise Trouble("which project? Give --project, or set RUNSTORE_PROJECT")
    store = find_store(redis_url, data_dir, Settings.load(os.environ, config))
    from runstore.cli.wrapped import execute
    from runstore.publish.event import make_event
    from runstore.publish.track import TrackOptions

    told_id = parse_run_id(run_id) if run_id is not None else RunId(str(uuid4()))
    options = TrackOptions(
        project_name=check_project_name(named),
        run_id=told_id,
        commit_sha=asyncio.run(_commit_here()) if commit_sha is None else commit_sha or None,
        tags=tag,
        worker=socket.gethostname()[:60],
        traceparent=read_traceparent(traceparent or os.environ.get("TRACEPARENT")),
    )
    make_event(told_id, Status.RUNNING, options.told())  # what cannot be told is refused before anything runs
    for name in ("runstore", "runstore_worker"):
        logging.getLogger(name).addHandler(logging.NullHandler())  # stderr is the command's
    done = asyncio.run(execute(command, store, options, timeout_s=timeout_s))
    why = f": {done.reason}" if done.reason else ""
    if not done.is_safe:  # nothing else would ever tell
        lost = "; the store is away, the spool cannot be written, and nobody hears of it"
        err().line(f"run {told_id[:_SHORT]} {done.status}{why}{lost}")
    elif not quiet:
        late = "" if done.is_acknowledged else "; the store is away, and hears of it later"
        err().line(f"run {told_id[:_SHORT]} {done.status}{why}{late}")
    return done.code


async def _commit_here() -> str | None:
    """Return the commit that is checked out in the working folder, whatever is changed there; None where none is."""
    from runstore_worker.git import GitFailed, git
    from runstore_worker.source import RepositoryError

    try:
        said = await git("-C", Path.cwd(), "rev-parse", "--verify", "--quiet", "HEAD", timeout_s=_GIT_S)
    except (GitFailed, RepositoryError, OSError):
        return None
    return said.decode("ascii", "replace").strip() or None
