"""Every script of the adapters and the shells."""

from importlib import import_module
from pkgutil import iter_modules

import runstore.adapters
from runstore.adapters.connection import Script


def scripts() -> dict[str, str]:
    """Return each script by its hash."""
    modules = [f"runstore.adapters.{module.name}" for module in iter_modules(runstore.adapters.__path__)]
    found = [vars(import_module(name)).values() for name in [*modules, "runstore.projection.reader"]]
    return {value.sha: value.lua for values in found for value in values if isinstance(value, Script)}
