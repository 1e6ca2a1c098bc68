"""Lengths of time as people type them: `90s`, `30m`, `12h`, `30d`, `2w`."""

import re
from typing import Final

from runstore.cli.exits import Trouble

_FORM: Final = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_seconds(text: str, flag: str) -> int:
    """Read a length of time as seconds.

    Raises: Trouble, naming the flag.
    """
    found = _FORM.fullmatch(text.strip().lower())
    if found is None:
        raise Trouble(f"{flag} {text[:20]!r}: write a number and its unit, such as 30d, 12h, 45m or 90s")
    return int(found[1]) * _SECONDS[found[2]]
