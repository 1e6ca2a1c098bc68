"""The Redis-compatible server that runstore brings along: found, started, held and stopped with its owner."""

from runstore.engine.address import belongs, locate
from runstore.engine.config import EngineConfig, EngineKind
from runstore.engine.engine import Engine, running, start
from runstore.engine.errors import EngineError

__all__ = ["Engine", "EngineConfig", "EngineError", "EngineKind", "belongs", "locate", "running", "start"]
