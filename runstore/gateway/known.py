"""Callers whose credential was checked a moment ago, by its digest, so that a signature is not checked again."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from runstore.gateway.context import Caller

MOST: Final = 4096


class KnownCallers:
    """The callers seen last; one that has expired, or whose vouchers do not stand any more, is forgotten."""

    def __init__(self, stands: Callable[[bytes], bool], most: int = MOST) -> None:
        self._stands = stands
        self._most = most
        self._callers: OrderedDict[bytes, Caller] = OrderedDict()

    def __len__(self) -> int:
        return len(self._callers)

    def get(self, digest: bytes) -> Caller | None:
        """Get a caller whose credential still holds."""
        caller = self._callers.get(digest)
        if caller is None:
            return None
        expires_at_s = caller.principal.expires_at_s
        is_over = expires_at_s is not None and time.time() >= expires_at_s
        if is_over or not all(map(self._stands, caller.vouchers)):
            del self._callers[digest]
            return None
        self._callers.move_to_end(digest)
        return caller

    def put(self, caller: Caller) -> None:
        """Remember a caller, in place of the one that was not seen for longest where there are too many."""
        self._callers[caller.digest] = caller
        if len(self._callers) > self._most:
            self._callers.popitem(last=False)
