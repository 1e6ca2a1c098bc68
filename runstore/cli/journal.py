"""The log of a service: one line an event, with its fields, for people or as JSON; to stderr, or into a file."""

import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from math import isfinite
from pathlib import Path
from typing import Any, Final, Literal

from runstore import request_id
from runstore.cli.screen import harmless
from runstore.config import LogSettings
from runstore.core.token import mask_tokens

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["console", "json"]
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS: Final = ("runstore", "runstore_worker")
_ACCESS: Final = "runstore.gateway.access"
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


class JsonLines(logging.Formatter):
    """`{"at":"2026-04-28T10:00:00.123+00:00","level":"info","logger":"runstore.gateway","event":"gateway_started",…}`.

    A field that would hide one of those four is written with `_` behind its name.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as one line of JSON, a traceback among its fields."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "at": at,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": mask_tokens(record.getMessage()),
        }
        for name, value in vars(record).items():
            if name not in _PLAIN:
                line[f"{name}_" if name in line else name] = _plain(value)
        if record.exc_info:
            line["traceback"] = mask_tokens(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    return mask_tokens(str(value))


_FORMATTERS: Final[dict[Format, type[logging.Formatter]]] = {"console": Lines, "json": JsonLines}


def to_stderr(settings: LogSettings) -> None:
    """Log to stderr what the settings say."""
    number = logging.getLevelNamesMapping()[settings.level.upper()]
    for name in _OURS:
        logging.getLogger(name).setLevel(number)
    _begin(logging.StreamHandler(sys.stderr), number, settings, with_access=settings.access)


def to_file(path: Path, settings: LogSettings) -> None:
    """Log everything into a file of which the last few MiB are kept, and trouble to stderr as well."""
    handler = RotatingFileHandler(
        path, maxBytes=_FILE_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
    )
    path.chmod(0o600)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    _begin(handler, logging.INFO, settings, with_access=settings.access)
    _begin(logging.StreamHandler(sys.stderr), logging.ERROR, settings, with_access=False)


def _begin(handler: logging.Handler, level: int, settings: LogSettings, *, with_access: bool) -> None:
    handler.setFormatter(_FORMATTERS[settings.format]())
    handler.setLevel(min(level, logging.INFO) if with_access else level)
    if with_access:
        # the requests are asked for, and nothing else that is below the level
        handler.addFilter(lambda record: record.levelno >= level or record.name == _ACCESS)
    handler.addFilter(request_id.add_to)
    logging.getLogger().addHandler(handler)
    logging.getLogger(_ACCESS).setLevel(logging.INFO if settings.access else logging.WARNING)
