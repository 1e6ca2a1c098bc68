"""The log of a service: one line an event, with its fields; to stderr, or into a file of the data folder."""

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, Literal

from runstore.cli.screen import harmless
from runstore.core.token import mask_tokens

Level = Literal["debug", "info", "warning", "error"]
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS: Final = ("runstore", "runstore_worker")
_FILE_BYTES: Final = 4 * 1024 * 1024


class Lines(logging.Formatter):
    """`2026-04-28T10:00:00Z INFO runstore.gateway gateway_started url=http://…`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as one line; a traceback follows on lines of its own."""
        fields = "".join(f" {name}={value}" for name, value in vars(record).items() if name not in _PLAIN)
        at = self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z")
        line = harmless(mask_tokens(f"{at} {record.levelname} {record.name} {record.getMessage()}{fields}"))
        if not record.exc_info:
            return line
        return f"{line}\n{harmless(mask_tokens(self.formatException(record.exc_info)), lines=True)}"


def to_stderr(level: Level = "warning") -> None:
    """Log to stderr what is of a level or above it."""
    number = logging.getLevelNamesMapping()[level.upper()]
    for name in _OURS:
        logging.getLogger(name).setLevel(number)
    _begin(logging.StreamHandler(sys.stderr), number)


def to_file(path: Path) -> None:
    """Log everything into a file of which the last few MiB are kept, and trouble to stderr as well."""
    handler = RotatingFileHandler(
        path, maxBytes=_FILE_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
    )
    path.chmod(0o600)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    _begin(handler, logging.INFO)
    _begin(logging.StreamHandler(sys.stderr), logging.ERROR)


def _begin(handler: logging.Handler, level: int) -> None:
    handler.setFormatter(Lines())
    handler.setLevel(level)
    logging.getLogger().addHandler(handler)
    logging.getLogger("runstore.gateway.access").setLevel(logging.WARNING)
