"""What an answer over HTTP must be like, whatever was asked."""

import json
import re
from typing import Any

from runstore.gateway.problems import KINDS
from tests.attack.attack import Tally
from tests.attack.http_line import Answer
from tests.attack.site import Site

ANYWHERE = {"400", "401", "403", "404", "405", "408", "413", "417", "431"}
"""What may be answered before it is known which address was meant; 403 is for the origin."""
REST = re.compile(r"/v1/runs/[^/]*/output/.*", re.DOTALL)
"""The one address whose last parameter is all that follows."""


class Documented:
    """The statuses that the OpenAPI document tells of, for each operation."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._operations = [
            (
                REST if path.endswith("{name}") else re.compile("".join(_pattern(part) for part in _parts(path))),
                {method: set(operation["responses"]) for method, operation in methods.items()},
            )
            for path, methods in document["paths"].items()
        ]

    def statuses(self, method: str, path: str) -> set[str]:
        """Return the statuses that may be answered; those before an address is known where there is none such."""
        for pattern, methods in self._operations:
            if pattern.fullmatch(path):
                return methods.get({"head": "get"}.get(method.lower(), method.lower()), set()) | ANYWHERE
        return ANYWHERE


def _pattern(part: str) -> str:
    return "[^/]*" if part.startswith("{") else re.escape(part)


def _parts(path: str) -> list[str]:
    return re.split(r"(\{\w+\})", path)


def judge(
    site: Site,
    tally: Tally,
    answer: Answer,
    *,
    number: int,
    sent: bytes,
    allowed: set[str] | None,
    is_admin: bool = False,
) -> None:
    """Check one answer, and take note of what is wrong with it."""
    about = {"number": number, "sent": sent, "told": (answer.status, answer.headers, answer.body)}
    if answer.status == 503 and sent.startswith((b"GET /readyz", b"HEAD /readyz")):
        return  # that is what it is for, should this machine be slow
    if answer.status >= 500:
        tally.fail(f"an answer of {answer.status}", **about)
        return
    if allowed is not None and str(answer.status) not in allowed:
        tally.fail(f"an answer of {answer.status}, which the document does not tell of", **about)
    if b"\x00" in b"".join(answer.headers.values()) or b"x-injected" in answer.headers:
        tally.fail("a header that the caller made up", **about)
    if answer.status >= 400 and answer.body:
        _judge_problem(tally, answer, about)
    if not is_admin and site.secret.encode() in (answer.body or b""):
        tally.fail("an answer that shows a project which the caller may not read", **about)


def _judge_problem(tally: Tally, answer: Answer, about: dict[str, Any]) -> None:
    try:
        told = json.loads(answer.body or b"")
    except ValueError:
        told = None
    if answer.media == b"application/json" and isinstance(told, dict) and told.get("jsonrpc") == "2.0":
        return
    if answer.media != b"application/problem+json" or not isinstance(told, dict):
        tally.fail("an error that is no problem document", **about)
        return
    kind = KINDS.get(str(told.get("code")))
    if kind is None or kind.status != answer.status or told.get("status") != answer.status or not told.get("detail"):
        tally.fail("a problem document that does not fit its answer", **about)
