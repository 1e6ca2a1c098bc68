"""The log of a service: one line an event, with its fields; to stderr, or into a file of the data folder."""

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from runstore.cli.screen import harmless

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FILE_BYTES: Final = 4 * 1024 * 1024


class Lines(logging.Formatter):
    """`2026-04-28T10:00:00Z INFO runstore.gateway gateway_started url=http://…`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as one line; a traceback follows on lines of its own."""
        fields = "".join(f" {name}={value}" for name, value in vars(record).items() if name not in _PLAIN)
        at = self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z")
        line = harmless(f"{at} {record.levelname} {record.name} {record.getMessage()}{fields}")
        return f"{line}\n{harmless(self.formatException(record.exc_info), lines=True)}" if record.exc_info else line


def to_stderr(level: int = logging.INFO) -> None:
    """Log to stderr."""
    _begin(logging.StreamHandler(sys.stderr), level)


def to_file(path: Path) -> None:
    """Log everything into a file of which the last few MiB are kept, and trouble to stderr as well."""
    handler = RotatingFileHandler(
        path, maxBytes=_FILE_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
    )
    path.chmod(0o600)
    _begin(handler, logging.INFO)
    _begin(logging.StreamHandler(sys.stderr), logging.ERROR)


def _begin(handler: logging.Handler, level: int) -> None:
    handler.setFormatter(Lines())
    handler.setLevel(level)
    logging.getLogger().addHandler(handler)
    logging.getLogger("runstore").setLevel(logging.INFO)
    logging.getLogger("runstore_worker").setLevel(logging.INFO)
    logging.getLogger("runstore.gateway.access").setLevel(logging.WARNING)
