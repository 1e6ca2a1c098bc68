"""Requests to the gateway: one at a time, each with a time limit, repeated only where a repeat changes nothing."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import aiohttp
import yarl

from runstore import __version__
from runstore.client.backoff import pause_s
from runstore.client.config import ClientConfig
from runstore.client.errors import GatewayUnreachable, UnexpectedAnswer, read_problem
from runstore.core.errors import InvalidRequest, RunstoreError

Token = str | Callable[[], str] | None
Params = Sequence[tuple[str, str]]
_MAX_RETRY_AFTER_S: Final = 60.0


class Answer(NamedTuple):
    """An answer below 400, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http:
    """The gateway's address, the token and one pool of connections."""

    def __init__(self, url: str, token: Token, config: ClientConfig) -> None:
        self.base = _base_of(url)
        self.config = config
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool of connections, made when first asked for. Needs: a running loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, connect=self.config.connect_timeout_s),
                headers={"User-Agent": f"runstore-client/{__version__}"},
            )
        return self._session

    @property
    def renews_token(self) -> bool:
        """Whether the next request may carry another token than the last."""
        return callable(self._token)

    def headers(self) -> dict[str, str]:
        """Return the headers that every request carries. A token that is a function is asked anew each time."""
        token = self._token() if callable(self._token) else self._token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def url(self, path: str, params: Params = ()) -> yarl.URL:
        """Return the address of a path, whose variable parts are already quoted."""
        return self.base.joinpath(path.lstrip("/"), encoded=True).with_query(list(params) or None)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        repeatable: bool = True,
        hold_s: float = 0.0,
    ) -> Answer:
        """Ask, and return the answer. `hold_s` is how long the gateway was asked to hold it.

        Raises: what the problem document tells; GatewayUnreachable.
        """
        url, clock = self.url(path, params), asyncio.get_running_loop().time
        give_up_at = clock() + self.config.retry_for_s
        for attempt in itertools.count():
            try:
                return await self._once(method, url, headers or {}, body=body, hold_s=hold_s)
            except _Busy as busy:
                error, may_repeat, pause = busy.error, repeatable, max(busy.after_s, pause_s(self.config, attempt))
            except aiohttp.ClientConnectorError as lost:
                # Nothing was sent, so that a repeat is safe whatever the request.
                error, may_repeat, pause = self._unreachable(lost), True, pause_s(self.config, attempt)
            except (aiohttp.ClientError, TimeoutError, OSError) as lost:
                error, may_repeat, pause = self._unreachable(lost), repeatable, pause_s(self.config, attempt)
            if not may_repeat or clock() + pause > give_up_at:
                raise error from None
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def stream(
        self, path: str, params: Params = (), headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for an answer that is read as it comes; a silence of `timeout_s` ends it unless the gateway speaks.

        Raises: what the problem document tells; GatewayUnreachable.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, connect=self.config.connect_timeout_s, sock_read=max(self.config.timeout_s, 60.0)
        )
        try:
            async with self.session.get(
                self.url(path, params),
                headers={**self.headers(), **(headers or {})},
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                if response.status >= 300:
                    raise read_problem(response.status, await response.read(), f"GET {path}")
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as lost:
            raise self._unreachable(lost) from None

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _once(
        self, method: str, url: yarl.URL, headers: Mapping[str, str], *, body: bytes | None, hold_s: float
    ) -> Answer:
        sent = {**self.headers(), **headers}
        if body is not None:
            sent["Content-Type"] = "application/json"
        async with (
            asyncio.timeout(self.config.timeout_s + hold_s),
            self.session.request(method, url, headers=sent, data=body, allow_redirects=False) as response,
        ):
            answer = Answer(response.status, response.headers, await response.read())
        if answer.status < 300:
            return answer
        if answer.status < 400:
            raise UnexpectedAnswer(f"{method} {url.path}: the answer was a redirect; give the gateway's own address")
        error = read_problem(answer.status, answer.body, f"{method} {url.path}")
        if error.retryable:
            raise _Busy(error, _retry_after_s(answer.headers))
        raise error

    def _unreachable(self, lost: BaseException) -> GatewayUnreachable:
        why = str(lost) or type(lost).__name__
        return GatewayUnreachable(f"the gateway at {self.base} cannot be reached: {why}")


class _Busy(Exception):
    """The gateway asked to come again."""

    def __init__(self, error: RunstoreError, after_s: float) -> None:
        super().__init__(error)
        self.error = error
        self.after_s = after_s


def _retry_after_s(headers: Mapping[str, str]) -> float:
    try:
        return min(max(float(headers.get("Retry-After", "0")), 0.0), _MAX_RETRY_AFTER_S)
    except ValueError:
        return 0.0


def _base_of(url: str) -> yarl.URL:
    try:
        base = yarl.URL(url)
        host = base.host
    except (ValueError, TypeError):
        base, host = yarl.URL(), None
    if base.scheme not in {"http", "https"} or not host:
        raise InvalidRequest(f"{str(url)[:100]!r} is no gateway's address: give one such as http://127.0.0.1:8080")
    if base.raw_user is not None or base.raw_password is not None:
        raise InvalidRequest("leave user and password out of the address: a token is given apart, as RUNSTORE_TOKEN")
    return base.with_query(None).with_fragment(None)
