"""What a decoder found wrong, in a sentence that says what to mend."""

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from runstore.core.event import MAX_JSON_DEPTH
from runstore.core.status import Status

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_AT_BYTE: Final = re.compile(r"\(byte (\d+)\)$")
_NO_NUMBER: Final = re.compile(rb"NaN|Infinity")
_BAD_CHOICE: Final = re.compile(r"Invalid enum value .* - at `\$(?:.*\.)?(\w+)`$")
_CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "status": [status.value for status in Status],
    "mode": ["async", "sync"],
    "events": ["terminal", "all"],
}
_MOST_CHARACTERS: Final = 300


def explain(error: Exception, text: bytes) -> str:
    """Say in a few words what a decoder found wrong with a text."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return f"it is nested deeper than {MAX_JSON_DEPTH} levels"
    if not text.strip():
        return "it is empty: give a JSON object"
    if text.startswith(_BYTE_ORDER_MARK):
        return "it begins with a byte order mark: leave that out"
    said = str(error)
    if said == "Input data was truncated":
        return r"it ends in the middle of a value, or with half of a surrogate pair such as \ud800"
    return (_explain_number(said, text) or _explain_choice(said) or said)[:_MOST_CHARACTERS]


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """Say that a name is not known, and which known one is nearest."""
    near = get_close_matches(name[:100], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known)) or 'none'}"
    return f"unknown {what} {name[:60]!r}: {hint}"


def _explain_number(said: str, text: bytes) -> str | None:
    place = _AT_BYTE.search(said)
    if place is None:
        return None
    at = int(place[1])
    found = _NO_NUMBER.match(text, at)
    return f"{found[0].decode()} is no number in JSON: give null or a text (byte {at})" if found else None


def _explain_choice(said: str) -> str | None:
    bad = _BAD_CHOICE.match(said)
    choices = _CHOICES.get(bad[1]) if bad is not None else None
    return f"{said}: give one of {', '.join(choices)}" if choices is not None else None
