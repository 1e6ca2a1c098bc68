"""What a doctor makes of the issuer of JWTs: whether its keys can be had, and whether its clock is that of here."""

import asyncio
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import msgspec

from runstore.cli.finding import Finding, ill, well

if TYPE_CHECKING:
    from runstore.gateway.jwt_config import JwtConfig

DRIFT_S: Final = 10.0
_TIMEOUT_S: Final = 5.0


class IssuerSeen(msgspec.Struct, frozen=True, kw_only=True):
    """An issuer as it was found. `ahead_s` is by how much its clock is ahead of ours; None: it does not say.

    `trouble` is why its keys cannot be had; empty where they can.
    """

    url: str
    trouble: str = ""
    ahead_s: float | None = None


async def look_at_issuer(config: "JwtConfig") -> IssuerSeen:
    """Fetch an issuer's keys as a gateway does, and compare its clock with ours. Raises: nothing."""
    import aiohttp

    from runstore.gateway.jwt_fetch import MAX_BYTES

    url = config.keys_url()
    before_s = time.time()
    try:
        async with (
            asyncio.timeout(_TIMEOUT_S),
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(url, headers={"Accept": "application/json"}, allow_redirects=False) as answer,
        ):
            ahead_s = _ahead_s(answer.headers.get("Date", ""), before_s, time.time())
            if answer.status != 200:
                return IssuerSeen(url=url, trouble=f"it answers {answer.status} and not 200", ahead_s=ahead_s)
            text = await answer.content.read(MAX_BYTES)
        keys = msgspec.json.decode(text, type=_Keys).keys
        return IssuerSeen(url=url, trouble="" if keys else "it gives no keys", ahead_s=ahead_s)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return IssuerSeen(url=url, trouble="its answer is no set of keys", ahead_s=ahead_s)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return IssuerSeen(url=url, trouble=str(error)[:200] or f"no answer in {_TIMEOUT_S:g} s")


def judge_issuer(seen: IssuerSeen) -> Finding:
    """Say whether tokens of the issuer can be checked here, and what to do where not."""
    if seen.trouble:
        return ill(
            "issuer",
            f"the keys of the JWT issuer cannot be had from {seen.url} ({seen.trouble}), and gateways refuse its "
            "tokens once the keys that they have are old: look at jwks_url of [auth.jwt], and at the way there",
        )
    if seen.ahead_s is None:
        return well("issuer", f"the keys of the JWT issuer can be had from {seen.url}; it does not say its time")
    if abs(seen.ahead_s) > DRIFT_S:
        which = "ahead of" if seen.ahead_s > 0 else "behind"
        return ill(
            "issuer",
            f"the clock of the JWT issuer is {abs(seen.ahead_s):.0f} s {which} this machine's, so that its tokens are "
            "taken too early, too late or not at all: let this machine follow a time server (NTP)",
        )
    return well("issuer", f"the keys of the JWT issuer can be had, and its clock is that of this machine ({seen.url})")


class _Keys(msgspec.Struct):
    keys: list[msgspec.Raw]


def _ahead_s(date: str, before_s: float, after_s: float) -> float | None:
    try:
        told_s = parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return None
    # it says whole seconds only
    return told_s + 0.5 - (before_s + after_s) / 2
