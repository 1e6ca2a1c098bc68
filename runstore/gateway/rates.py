"""How often a caller may ask: one bucket a token, one an address for those without, and what is told of them.

Who has a valid token is never refused for what strangers do from the same address. Each answer says how many requests
are left, in the fields of draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy` and `RateLimit`.
"""

from collections.abc import Callable
from math import ceil
from time import monotonic
from typing import Final

from aiohttp import web
from multidict import CIMultiDict, istr

from runstore.core.errors import RateLimited
from runstore.core.principal import Principal
from runstore.core.rate import Buckets
from runstore.gateway.config import GatewayConfig
from runstore.gateway.context import Caller
from runstore.gateway.protocol import GuardedConnection

_RATELIMIT: Final = istr("RateLimit")
_RATELIMIT_POLICY: Final = istr("RateLimit-Policy")
_RUNS_A_REQUEST: Final = 10


class Meter:
    """One rate, and what callers are told of it. `whose` says who is counted together."""

    __slots__ = ("_buckets", "_clock", "_name", "_refusal", "policy")

    def __init__(self, name: str, whose: str, per_s: float, burst_s: float, clock: Callable[[], float]) -> None:
        buckets = Buckets(per_s, burst_s)
        self._buckets = buckets
        self._clock = clock
        self._name = f'"{name}"'
        self.policy = f'"{name}";q={buckets.holds};w={ceil(burst_s)}'
        self._refusal = f"the limit is {per_s:g} requests a second {whose}, and {buckets.holds} at once"

    def take(self, key: str, units: float = 1.0) -> float:
        """Take requests out of a bucket, and return how long it then needs to be full; see `check`."""
        return self._buckets.take(key, self._clock(), units)

    def check(self, used_s: float) -> None:
        """Check that what was asked for could be taken.

        Raises: RateLimited, saying when to try again.
        """
        if used_s > self._buckets.burst_s:
            wait_s = used_s - self._buckets.burst_s
            raise RateLimited(f"{self._refusal}: try again in {ceil(wait_s)} s", wait_s)

    def tell(self, headers: CIMultiDict[str], used_s: float) -> None:
        """Tell how a bucket stands."""
        headers[_RATELIMIT_POLICY], headers[_RATELIMIT] = self.policy, self.left(used_s)

    def left(self, used_s: float) -> str:
        """Say what is left, and when a bucket is full again, or where nothing is left, when to try again."""
        left_s = self._buckets.burst_s - used_s
        if left_s >= 0:
            return f"{self._name};r={self._buckets.units(left_s)};t={ceil(used_s)}"
        return f"{self._name};r=0;t={ceil(-left_s)}"


SPENT: Final = web.RequestKey("spent", tuple[Meter, float])
"""What a request was counted by, and how the bucket stands."""


class Rates:
    """The rates of one gateway. What is set to 0 is not counted."""

    def __init__(self, config: GatewayConfig, clock: Callable[[], float] = monotonic) -> None:
        burst_s = config.requests_burst_s
        self._tokens = (
            Meter("token", "by one token", config.requests_per_s, burst_s, clock) if config.requests_per_s else None
        )
        self._strangers = (
            Meter("stranger", "without a valid token", config.stranger_requests_per_s, burst_s, clock)
            if config.stranger_requests_per_s
            else None
        )

    def spend(self, request: web.Request, caller: Caller) -> None:
        """Count a request for its caller.

        Raises: RateLimited.
        """
        meter = self._tokens
        if meter is not None:
            used_s = meter.take(caller.principal.name)
            request[SPENT] = meter, used_s
            meter.check(used_s)

    def spend_and_tell(self, principal: Principal) -> str:
        """Count a request for its caller, and write the lines of the answer's head that tell what is left.

        Raises: RateLimited, and nothing was spent.
        """
        meter = self._tokens
        if meter is None:
            return ""
        used_s = meter.take(principal.name)
        meter.check(used_s)
        return f"{_RATELIMIT_POLICY}: {meter.policy}\r\n{_RATELIMIT}: {meter.left(used_s)}\r\n"

    def spend_on_message(self, principal: Principal, run_ids: int = 0) -> None:
        """Count a message on a websocket, by how many runs it names.

        Raises: RateLimited.
        """
        meter = self._tokens
        if meter is not None:
            meter.check(meter.take(principal.name, max(1, ceil(run_ids / _RUNS_A_REQUEST))))

    def spend_as_stranger(self, request: web.Request) -> None:
        """Count a request without a valid token for the address that it came from.

        Raises: RateLimited.
        """
        meter = self._strangers
        if meter is not None:
            connection = request.protocol
            used_s = meter.take(connection.address if isinstance(connection, GuardedConnection) else "")
            request[SPENT] = meter, used_s
            meter.check(used_s)


def tell_rate(request: web.Request, headers: CIMultiDict[str]) -> None:
    """Tell in an answer how many requests are left."""
    spent = request.get(SPENT)
    if spent is not None:
        spent[0].tell(headers, spent[1])
