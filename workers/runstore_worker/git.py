"""Calls of git that run nothing but git.

A repository is somebody else's: no hooks, no filters, no file system monitor, no submodules, no transport that is a
command, and no configuration but this module's. Settings that a repository's own configuration could override
come by `-c`; the file `gitconfig` beside this module holds the one that git takes only from a file when it starts
git-upload-pack for a local path. Needs git 2.30.
"""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from runstore_worker.complete import complete
from runstore_worker.environment import base_environment
from runstore_worker.held import Command
from runstore_worker.process import Exited, Logs, NotStarted, TimedOut, execute
from runstore_worker.source import RepositoryError, RepositoryUnreachable, without_secrets
from runstore_worker.tail import Tail

TIMEOUT_S = 300.0
KEEP_BYTES = 64 * 1024
PASSED_ON = (
    "GIT_ASKPASS",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "SSH_AUTH_SOCK",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.symlinks=true",
    "core.attributesFile=/dev/null",
    "protocol.ext.allow=never",
    "safe.directory=*",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "gc.autoDetach=false",  # or it would outlive the call, and the lock
    "maintenance.autoDetach=false",
    "commit.gpgSign=false",
)
ALWAYS = {
    "LC_ALL": "C",  # one message is looked for
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": str(Path(__file__).with_name("gitconfig")),
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
}
SSH = "ssh -oBatchMode=yes -oControlMaster=no"  # never asks, and leaves no master behind that holds our pipes


class GitFailed(Exception):
    """git ended with an error; the text is its last words."""

    retry = False


async def git(
    *arguments: str | Path, stdin: bytes = b"", env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> bytes:
    """Run git and take its output; it is gone with its children when this returns, raises or is cancelled.

    Raises: GitFailed, RepositoryUnreachable (not in time), RepositoryError (no git).
    """
    # from a file: a pipe to a process that has ended already fails in another way with each event loop
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = await _started(
            "git", *_options(), *map(str, arguments), stdin=given, env={**_environment(), **(env or {})}
        )
    try:
        async with asyncio.timeout(timeout_s):
            output, said = await process.communicate()
    except TimeoutError as error:
        raise RepositoryUnreachable(f"git took longer than {timeout_s:g} s") from error
    finally:
        await complete(_kill(process))
    if process.returncode:
        raise GitFailed(_last_words(said))
    return output


async def git_afar(*arguments: str | Path, timeout_s: float = TIMEOUT_S) -> None:
    """Run git where it speaks with somebody else's machine, which may never answer: held as a run is.

    So it is gone, and what it started to speak by, also when the worker itself was killed.

    Raises: as `git` does.
    """
    command = Command(
        run_id="git",
        argv=("git", *_options(), *map(str, arguments)),
        cwd=Path(),
        env=_environment(),
        timeout_s=timeout_s,
        grace_s=0,
    )
    with tempfile.TemporaryDirectory() as scratch:
        out, said = Path(scratch) / "stdout", Path(scratch) / "stderr"
        with Tail(out, KEEP_BYTES) as stdout, Tail(said, KEEP_BYTES) as stderr:
            logs = Logs(stdout=stdout, stderr=stderr)
            outcome = await execute(command, logs=logs, on_chunk=_pass_over, cancel=asyncio.Event())
            words = stderr.read()
    match outcome:
        case Exited(code=0):
            return
        case TimedOut():
            raise RepositoryUnreachable(f"git took longer than {timeout_s:g} s")
        case NotStarted():
            raise RepositoryError("git is not installed")
        case _:
            raise GitFailed(_last_words(words))


async def _pass_over(_stream: str, _chunk: bytes) -> None:
    """Leave it to the file."""


def _options() -> list[str]:
    return [option for setting in SETTINGS for option in ("-c", setting)]


async def _started(*command: str, stdin: IO[bytes], env: Mapping[str, str]) -> asyncio.subprocess.Process:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except FileNotFoundError as error:
        raise RepositoryError("git is not installed") from error
    except asyncio.CancelledError:
        # it may run already, with children, before the loop has heard that it was started
        await complete(_kill_started(starting))
        raise


async def _kill_started(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    with contextlib.suppress(OSError):
        await _kill(await starting)


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _environment() -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {"GIT_SSH_COMMAND": SSH, **base_environment(os.environ), **passed_on, **ALWAYS}


def _last_words(said: bytes) -> str:
    """Choose the line that says why: git puts hints after it."""
    lines = [line.strip() for line in without_secrets(said.decode(errors="replace")).splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines
    return reasons[0].partition(": ")[2][:300] if reasons and ": " in reasons[0] else "".join(reasons[:1])[:300]
