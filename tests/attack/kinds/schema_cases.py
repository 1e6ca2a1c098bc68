"""Schemathesis: requests made from the OpenAPI document, as it allows them and as it does not."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from requests.adapters import HTTPAdapter
from schemathesis.specs.openapi import checks
from urllib3.util import Retry

from tests.attack.attack import Plan, Tally
from tests.attack.site import Site

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
]
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
NOT_HELD = {"open_socket"}
"""A websocket is opened, which requests cannot: the kind `frames` does."""

STREAMS = "text/event-stream"


async def run(site: Site, tally: Tally, plan: Plan) -> None:
    """Send what Schemathesis makes, each operation its share, in both modes."""
    schema = schemathesis.openapi.from_dict(site.document)
    schema.config.update(base_url=site.url)
    operations = [
        operation
        for result in schema.get_all_operations()
        if (operation := result.ok()).definition.raw["operationId"] not in NOT_HELD
    ]
    work = [(operation, mode) for operation in operations for mode in MODES]
    share = max(1, plan.inputs // len(work) // len(site.tokens))

    def hand() -> None:
        with _session() as session:
            for number, (operation, mode) in enumerate(work):
                _drive(tally, partial(_all, site, tally, session), operation, mode, share, plan.seed + number)

    await asyncio.to_thread(hand)


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # else proxies and .netrc are looked for at each request
    session.mount("http://", HTTPAdapter(max_retries=Retry(total=2, connect=2, read=2, status=0, allowed_methods=None)))
    return session


def _drive(tally: Tally, deed: Callable[[Any], None], operation: Any, mode: Any, share: int, seed: int) -> None:
    @seeded(seed)
    @settings(
        max_examples=share,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def drive(case: Any) -> None:
        deed(case)

    try:
        drive()
    except Exception as error:
        if "Unsatisfiable" not in type(error).__name__:  # an operation that takes nothing cannot be asked wrongly
            tally.fail(f"{operation.label} could not be tried: {type(error).__name__}", told=repr(error)[:2000])


def _all(site: Site, tally: Tally, session: requests.Session, case: Any) -> None:
    """Send a case as every caller: to make it takes longer than to send it."""
    headers = dict(case.headers or {})
    for caller in site.tokens:
        case.headers = headers
        _one(site, tally, session, case, caller)


def _one(site: Site, tally: Tally, session: requests.Session, case: Any, caller: str) -> None:
    headers = {"Authorization": f"Bearer {site.tokens[caller]}", "Accept": "application/json, text/plain, */*"}
    headers |= {
        name: value for name, value in (case.headers or {}).items() if name.lower() not in {"accept", "authorization"}
    }
    case.headers = headers
    try:
        answer = case.call(session=session, timeout=25)
    except requests.exceptions.RequestException as error:
        tally.tried("none")
        if not isinstance(error, requests.exceptions.InvalidHeader):
            tally.fail(
                f"a request that was not answered: {type(error).__name__}", sent=_shown(case), told=repr(error)[:300]
            )
        return
    tally.tried(answer.status_code, len(case.body) if isinstance(case.body, bytes) else 0)
    if answer.status_code >= 500:
        tally.fail(f"an answer of {answer.status_code}", sent=_shown(case), told=answer.content[:500])
    if caller != "admin" and site.secret.encode() in answer.content:
        tally.fail("an answer that shows a project which the caller may not read", sent=_shown(case))
    try:
        case.validate_response(answer, checks=CHECKS)
    except BaseExceptionGroup as group:
        for failure in group.exceptions:
            name = f"{type(failure).__name__} at {case.method} {case.operation.path}: {answer.status_code}"
            tally.fail(name, sent=_shown(case), told=str(failure)[:500])


def _shown(case: Any) -> str:
    body = case.body if isinstance(case.body, (bytes, str)) else msgspec.json.encode(case.body, enc_hook=repr)[:300]
    return f"{case.method} {case.formatted_path} {case.query} {dict(case.headers or {})} {body!r}"
