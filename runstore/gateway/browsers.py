"""What a browser is told with every answer, whoever opened it: guess no type, run nothing, frame nothing, tell nobody.

An answer here is data, also where its text is a stranger's: a log, an output. A page that is to run something says so
itself, by a `Content-Security-Policy` of its own, and keeps the rest.
"""

from typing import Final

from multidict import CIMultiDict, istr

_SERVER: Final[dict[str, str]] = {istr("Server"): "runstore"}
"""What answers, with a version of nothing: aiohttp would tell its own and Python's."""

_POLICY: Final = istr("Content-Security-Policy")
_HARMLESS: Final = CIMultiDict(
    {
        _POLICY: "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        istr("X-Content-Type-Options"): "nosniff",
        istr("Referrer-Policy"): "no-referrer",
        istr("Cross-Origin-Resource-Policy"): "same-origin",
    }
)
"""For data. Pages of other origins that are let in read it all the same: CORS is asked before this is."""

ALWAYS: Final = {**_HARMLESS, **_SERVER}
"""What an answer that no application made has as well."""


def guard_browsers(headers: CIMultiDict[str]) -> None:
    """Make an answer harmless, and let it tell nothing of what made it."""
    headers.update(_SERVER)
    if _POLICY not in headers:
        headers.extend(_HARMLESS)
        return
    for name, value in _HARMLESS.items():
        headers.setdefault(name, value)
