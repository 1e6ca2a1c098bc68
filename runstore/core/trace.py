"""W3C trace context: which `traceparent` a run can carry.

Source: W3C Trace Context, section 3.2 (version 00, and what a later version must begin with).
"""

import re
from typing import Final

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.{0,200})?"
)


def read_traceparent(text: str | None) -> str | None:
    """Return a `traceparent` as it is told; None where there is none, or none that is valid: such are left out."""
    told = text.strip() if text is not None else ""
    return told if _TRACEPARENT.fullmatch(told) else None
