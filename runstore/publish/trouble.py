"""Tell of trouble that goes on: at the first failure, and then ever more seldom."""

import logging

from runstore.core.errors import RunstoreError


class Trouble:
    """Counts failures in a row, and logs the 1st, 2nd, 4th, 8th … of them."""

    def __init__(self) -> None:
        self.count = 0

    def tell(
        self, log: logging.Logger, name: str, error: BaseException, *, level: int = logging.WARNING, **fields: object
    ) -> None:
        """Count a failure, and log it where it is time; one that nobody thought of with its traceback."""
        self.count += 1
        if self.count & (self.count - 1) == 0:
            extra = {"failures": self.count, "reason": str(error)[:200], **fields}
            log.log(level, name, extra=extra, exc_info=None if isinstance(error, RunstoreError) else error)

    def is_over(self) -> None:
        """Begin to count anew."""
        self.count = 0
