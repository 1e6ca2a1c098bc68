"""What is odd: texts, bytes and JSON that break what was not written with care. Drawn by seed."""

import json
from random import Random
from typing import Any

TEXTS = (
    "", " ", "\x00", "\t", "\r\n", "\r\nX-Injected: 1", "é", "٣", "\u202e", "\ufeff", "\ud800", "𝕏" * 3, "a" * 300,
    "A" * 5000,
    "0", "-0", "-1", "1e999", "9" * 40, "NaN", "0x1F", "1_000", "null", "true", "[]", "{}", '"', "'", "\\", "/", "//",
    "..",
    "../../etc/passwd", "%", "%00", "%2e%2e%2f", "%zz", "%f0%28%8c%28", "%c0%af", "{{7*7}}",
    "${jndi:ldap://127.0.0.1/x}",
    "<script>alert(1)</script>", "'; DROP TABLE runs; --", "$(touch pwned)", "`id`", "--help", "*", "?", "#", "&",
    "=", ";",
    "6666", "66666666-6666-6666-6666-666666666666", "66666666666666666666666666666666",
    "{66666666-6666-6666-6666-666666666666}",
    "urn:uuid:66666666-6666-6666-6666-666666666666", "ABCD", "abc", "gggg", "abcd-", "-abcd", "----", "a-b-c-d",
    "2026-04-28", "2026-04-28T10:00:00Z", "2026-13-41T99:99:99Z", "0000-00-00T00:00:00+00:00",
    "9999-12-31T23:59:59.999999+23:59",
    "0001-01-01T00:00:00+14:00", "2026-04-28T10:00:00.0000000001Z", "AAAA", "gpQA", "=", "====", "AA==", "_-_-",
    "1-0", "18446744073709551615-18446744073709551615",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, -0.0, -1, 1, 2, 0.5, 1.5, 201, 2**31, 2**53 + 1, 2**63, 2**64, 2**128, -(2**63) - 1, 1e308, -1e308, 5e-324,
    10**400,
)  # fmt: skip


def text(random: Random) -> str:
    """Draw a text."""
    kind = random.random()
    if kind < 0.6:
        return random.choice(TEXTS)
    if kind < 0.7:
        return random.choice(TEXTS) + random.choice(TEXTS)
    return "".join(
        chr(random.choice((random.randrange(0x80), random.randrange(0x800), random.randrange(0xD800))))
        for _ in range(random.randrange(12))
    )


def value(random: Random, depth: int = 0) -> Any:
    """Draw a JSON value."""
    kind = random.random()
    if kind < 0.35 or depth > 3:
        return text(random)
    if kind < 0.55:
        return random.choice(NUMBERS)
    if kind < 0.7:
        return random.choice((None, True, False))
    if kind < 0.85:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    return {text(random): value(random, depth + 1) for _ in range(random.randrange(4))}


def deep(random: Random) -> bytes:
    """Draw JSON that is nested deeply, or seems so."""
    depth = random.choice((63, 64, 65, 66, 100, 1000, 20_000))
    kind = random.randrange(5)
    if kind == 0:
        return b"[" * depth + b"]" * depth
    if kind == 1:
        return b'{"a":' * depth + b"1" + b"}" * depth
    if kind == 2:
        return b"[" * depth
    if kind == 3:
        return b'"' + b"[" * depth + b'"'
    return b'{"x":"\\"' + b"[{" * depth + b'"}'


def mutated_json(random: Random, good: dict[str, Any]) -> bytes:
    """Draw a message that was good, or nearly, until something happened to it."""
    message = dict(good)
    for _ in range(random.randrange(4)):
        kind = random.random()
        name = random.choice(list(message) or ["x"])
        if kind < 0.5:
            message[name] = value(random)
        elif kind < 0.7:
            message.pop(name, None)
        elif kind < 0.85:
            message[text(random)] = value(random)
        else:
            message[name] = [message.get(name)] * random.choice((1, 2, 30))
    raw = written(message, ascii_only=random.random() < 0.5)
    return mutated(random, raw) if random.random() < 0.3 else raw


def written(message: Any, *, ascii_only: bool = True) -> bytes:
    """Write JSON as Python does, which writes NaN, lone surrogates and numbers of any size."""
    return json.dumps(message, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def mutated(random: Random, raw: bytes) -> bytes:
    """Draw bytes that differ from others in a few places."""
    changed = bytearray(raw)
    for _ in range(random.choice((1, 1, 2, 5))):
        place = random.randrange(len(changed) + 1)
        kind = random.randrange(5)
        if kind == 0:
            del changed[place : place + random.choice((1, 1, 5, 50))]
        elif kind == 1:
            changed[place:place] = random.randbytes(random.choice((1, 1, 4)))
        elif kind == 2:
            changed[place:place] = random.choice(TEXTS)[:64].encode("utf-8", "surrogatepass")
        elif kind == 3 and place < len(changed):
            changed[place] ^= 1 << random.randrange(8)
        else:
            changed[place:place] = changed[place : place + 20] * random.choice((1, 3))
    return bytes(changed)
