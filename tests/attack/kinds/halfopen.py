"""Thousands of connections that are begun and not gone on with, all at once; those of good will are served meanwhile.

Each must be cut by the gateway itself within its times, but for websockets and streams, which may stay for as long as
they answer pings: those are hung up on.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random

from tests.attack.attack import Attack, Plan, Tally
from tests.attack.site import Site
from tests.attack.watched import Watched
from tests.waiting import happens

OURS = 512
"""Files that the attacker needs for itself."""

AT_ONCE = 256
CUT_WITHIN_S = 60.0
STAYS = "stays"
HELD_BYTES = 24 * 1024
"""What a connection may cost while it is open, half a handshake or a websocket alike."""

FEW = 1000
WAVES = 6
SETTLES_AFTER = 3
"""Waves by which the allocator has most of what it keeps."""

LATER_BYTES = 4 * 1024 * 1024
LATER_BYTES_EACH = 512
"""What a connection of a later wave may add; a websocket that is not let go of costs 10 KiB, a request 3 KiB."""

POOLED = 64
"""Files that the gateway may have open beside those it had: its connections to the server."""


def shapes(site: Site) -> dict[str, Callable[[Random], bytes]]:
    """Return what a connection may begin with; the names of those that may stay begin with `stays`."""
    token = site.tokens["bound"]
    head = f"Host: x\r\nAuthorization: Bearer {token}\r\n"
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    handshake = f"GET /v1/ws HTTP/1.1\r\n{head}{upgrade}Sec-WebSocket-Protocol: runstore.v1\r\n\r\n"
    run_id = site.known[1]
    return {
        "nothing": lambda _: b"",
        "half a head": lambda random: handshake.encode()[: random.randrange(1, len(handshake) - 2)],
        "half a body": lambda _: f"POST /v1/runs HTTP/1.1\r\n{head}Content-Length: 1000\r\n\r\n{{".encode(),
        "half a chunk": lambda _: (
            f"POST /v1/runs HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\nff\r\n{{".encode()
        ),
        "an answer, then nothing": lambda _: f"GET /v1/runs HTTP/1.1\r\n{head}\r\n".encode(),
        "a TLS hello": lambda random: b"\x16\x03\x01\x02\x00\x01" + random.randbytes(100),
        f"{STAYS}: a websocket": lambda _: handshake.encode(),
        f"{STAYS}: half a frame": lambda _: handshake.encode() + b"\x81\xfe\x10\x00",
        f"{STAYS}: a stream": lambda _: (
            f"GET /v1/runs/{run_id}/events HTTP/1.1\r\n{head}Accept: text/event-stream\r\n\r\n".encode()
        ),
    }


async def run(site: Site, tally: Tally, plan: Plan) -> None:
    """Open them in waves: what the allocator keeps of the first ones is there for the later ones, and a leak is not."""
    numbers = list(plan.numbers(WAVES * (site.open_files - OURS)))
    size = -(-len(numbers) // WAVES) if len(numbers) > FEW else len(numbers)
    tally.held_bytes = size * HELD_BYTES
    gateway, held = site.process("gateway"), []
    before = gateway.read()
    for start in range(0, len(numbers), size):
        await _wave(site, tally, plan, numbers[start : start + size])
        if before is None:
            return  # it has ended, which is told of elsewhere
        await happens(lambda: _holds_at_most(gateway, (before.fds or 0) + POOLED), within_s=CUT_WITHIN_S)
        if (reading := gateway.read()) is None:
            return
        held.append(reading.rss_bytes)
    tally.notes.append(f"after each wave the gateway held {', '.join(f'{rss / 2**20:.1f}' for rss in held)} MiB")
    if len(later := held[SETTLES_AFTER - 1 :]) < 2:
        return
    most = LATER_BYTES + (len(later) - 1) * size * LATER_BYTES_EACH
    if (gained := later[-1] - later[0]) > most:
        tally.fail(f"the gateway gained {gained:,} bytes by its later waves, more than {most:,}")


def _holds_at_most(process: Watched, files: int) -> bool:
    reading = process.read()
    return reading is None or (reading.fds or 0) <= files


async def _wave(site: Site, tally: Tally, plan: Plan, numbers: Sequence[int]) -> None:
    made = shapes(site)
    names = list(made)
    host, port = site.address
    gate = asyncio.Semaphore(AT_ONCE)
    opened: list[tuple[str, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def one(number: int) -> None:
        random = plan.random(number)
        name = names[number % len(names)]
        async with gate:
            address = f"127.2.{1 + number // 250 % 250}.{1 + number % 250}"
            try:
                reader, writer = await asyncio.open_connection(host, port, local_addr=(address, 0))
            except OSError as error:
                tally.tried(f"refused: {error.strerror}")
                tally.fail("a connection that was refused", number, told=error)
                return
            with suppress(ConnectionError):
                writer.write(made[name](random))
                await writer.drain()
            opened.append((name, reader, writer))

    async with asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(one(number))
    tally.notes.append(
        f"{len(opened):,} connections were open at once; {site.open_files:,} files are allowed to a process"
    )
    if (wrong := await site.healthy()) is not None:
        tally.fail(f"while {len(opened)} connections were half open, {wrong}")
    staying = [each for each in opened if each[0].startswith(STAYS)]
    passing = [each for each in opened if not each[0].startswith(STAYS)]
    cut = await asyncio.gather(*(_is_cut(reader) for _, reader, _ in passing))
    for (name, _, _), was_cut in zip(passing, cut, strict=True):
        tally.tried(f"{name}: {'cut' if was_cut else 'left open'}")
        if not was_cut:
            tally.fail(f"a connection that was left open for {CUT_WITHIN_S:g} s: {name}")
    for name, reader, _ in staying:
        lives = not reader.at_eof()
        tally.tried(f"{name}: {'open' if lives else 'closed'}")
    for _, _, writer in opened:
        writer.transport.abort()


async def _is_cut(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(CUT_WITHIN_S):
            while await reader.read(65536):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


ATTACK = Attack(
    name="halfopen",
    checks="others are served meanwhile; each is cut within the gateway's times, and leaves no file open",
    share=0.18,
    least=90,
    warms_up=False,
    run=run,
)
