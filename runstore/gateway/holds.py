"""What each caller holds: websockets, streams and waiting answers, and the runs that it is subscribed to."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from runstore.core.errors import RateLimited
from runstore.core.principal import Principal


class Holds:
    """Counts by principal, of which nothing is kept once all is given back.

    `most` 0: any number. `what` is what is counted, and `mend` what a caller does who holds too much of it.
    """

    def __init__(self, most: int, what: str, mend: str) -> None:
        self._most = most
        self._refusal = f"the limit is {most} {what} of one token at a time: {mend}"
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._held.total()

    def take(self, principal: Principal, number: int = 1) -> None:
        """Take some more.

        Raises: RateLimited where that would be too much.
        """
        name = principal.name
        if 0 < self._most < self._held[name] + number:
            raise RateLimited(self._refusal)
        if number:
            self._held[name] += number

    def give_back(self, principal: Principal, number: int = 1) -> None:
        """Give some back."""
        name = principal.name
        self._held[name] -= number
        if not self._held[name]:
            del self._held[name]

    @contextmanager
    def hold(self, principal: Principal) -> Iterator[None]:
        """Hold one for the length of a `with`.

        Raises: RateLimited.
        """
        self.take(principal)
        try:
            yield
        finally:
            self.give_back(principal)
