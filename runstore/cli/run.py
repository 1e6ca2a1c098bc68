"""`runstore run`."""

import asyncio
import sys
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from runstore.cli.exits import Exit, Trouble, of_statuses
from runstore.cli.screen import err, out
from runstore.cli.target import Config, Json, Token, Url, connect
from runstore.cli.view import news, show_run

if TYPE_CHECKING:
    from runstore.client import AsyncClient, Run


def run(
    project: str,
    /,
    *,
    input_: Annotated[
        tuple[str, ...],
        Parameter(name="--input", alias="-i", help="key=value, the value JSON or else text; may be repeated."),
    ] = (),
    inputs: Annotated[
        str | None,
        Parameter(allow_leading_hyphen=True, help="All inputs: a JSON object, @FILE, or - for standard input."),
    ] = None,
    wait: Annotated[bool, Parameter(help="Wait for the end, and show the run.")] = False,
    timeout_s: Annotated[float | None, Parameter(help="The most seconds that the run itself may take.")] = None,
    queue_timeout_s: Annotated[float | None, Parameter(help="The most seconds it may wait for a worker.")] = None,
    commit_sha: Annotated[str | None, Parameter(help="The commit to execute; else the default branch's head.")] = None,
    branch: Annotated[str | None, Parameter(help="Execute the head of this branch.")] = None,
    tag: Annotated[tuple[str, ...], Parameter(help="A tag to find it by; may be repeated.")] = (),
    run_id: Annotated[str | None, Parameter(help="The id to give it, a UUID; asked twice, it is one run.")] = None,
    idempotency_key: Annotated[str | None, Parameter(help="Asked twice with one key, it is one run.")] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    config: Config = None,
) -> int:
    """Ask for a run, and print its id.

    With --wait exits with 0 for success, 1 failed, 3 timed out, 4 cancelled; 2 refused, 5 not reached.
    """
    for flag, seconds in (("--timeout-s", timeout_s), ("--queue-timeout-s", queue_timeout_s)):
        if seconds is not None and not isfinite(seconds):  # JSON has no such number: it would count as not given
            raise Trouble(f"{flag} {seconds}: give a number of seconds")
    asked = {
        "timeout_s": timeout_s,
        "queue_timeout_s": queue_timeout_s,
        "commit_sha": commit_sha,
        "branch": branch,
        "tags": tag,
        "run_id": run_id,
        "idempotency_key": idempotency_key,
    }
    given = read_inputs(inputs, input_)
    return asyncio.run(_run(project, given, asked, wait=wait, json=json, url=url, token=token, config=config))


def read_inputs(inputs: str | None, pairs: tuple[str, ...]) -> dict[str, Any] | None:
    """Read inputs: a whole object, with single ones laid over it. None: none were given.

    Raises: Trouble.
    """
    if inputs is None and not pairs:
        return None
    whole = _read_whole(inputs) if inputs is not None else {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Trouble(f"--input {pair[:60]!r}: write it as key=value")
        try:
            whole[key] = msgspec.json.decode(value.encode("utf-8", "surrogateescape"))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            whole[key] = value
    return whole


def _read_whole(inputs: str) -> dict[str, Any]:
    try:
        if inputs == "-":
            text = sys.stdin.buffer.read()
        elif inputs.startswith("@"):
            text = Path(inputs[1:]).read_bytes()
        else:
            text = inputs.encode("utf-8", "surrogateescape")
        value = msgspec.json.decode(text)
    except OSError as error:
        raise Trouble(f"the inputs cannot be read from {inputs[1:]}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Trouble(f"the inputs are not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise Trouble('the inputs must be a JSON object, such as {"horizon": 3}')
    return value


async def _run(
    project: str,
    inputs: dict[str, Any] | None,
    asked: dict[str, Any],
    *,
    wait: bool,
    json: bool,
    url: str | None,
    token: str | None,
    config: Path | None,
) -> Exit:
    screen = out()
    async with connect(url, token, config) as client:
        run = await client.run(project, inputs, **asked)
        if wait:
            run = await _wait(client, run, quiet=json)
    if json:
        screen.json(run.to_json())
    elif wait:
        show_run(screen, run)
    else:
        screen.line(run.run_id)
        if screen.is_terminal:
            err().line((f"{run.status}; `runstore watch {run.run_id[:8]}` tells when it has ended", "dim"))
    return of_statuses([run.status]) if wait else Exit.SUCCESS


async def _wait(client: "AsyncClient", run: "Run", *, quiet: bool) -> "Run":
    """Wait for the end of a run, telling a terminal how it goes on."""
    if run.is_terminal:
        return run
    screen = err()
    if quiet or not screen.is_terminal:
        return await client.wait(run.run_id)
    with screen.waiting(f"waiting for {run.run_id}"):
        async for pushed in client.watch(run.run_id, events="all"):
            if pushed.is_terminal:
                return pushed
            screen.line(*news(pushed))
    raise AssertionError("unreachable: a watch of one run ends with its end")
