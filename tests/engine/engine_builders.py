"""What tests of the engine need besides an engine: a client, a program that looks like a server, a look around."""

import os
from collections.abc import Callable
from pathlib import Path

import redis

from runstore.engine import Engine, EngineConfig
from runstore.engine.folder import acquire

Configure = Callable[..., EngineConfig]
Launch = Callable[..., Engine]


def connect(engine_or_url: Engine | str) -> "redis.Redis[bytes]":
    url = engine_or_url if isinstance(engine_or_url, str) else engine_or_url.redis_url
    return redis.Redis.from_url(url, protocol=2)


def program(path: Path, *, version: str, body: str) -> Path:
    """An executable that answers `--version` and otherwise does what `body` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo "Redis server v={version} sha=0"; exit; fi\n{body}\n'
    )
    path.chmod(0o755)
    return path


def is_free(folder: Path) -> bool:
    """Whether nobody, neither server nor watchdog, holds the folder at this moment."""
    os.close(acquire(folder, patience_s=0))
    return True


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
