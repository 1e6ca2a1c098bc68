"""The table: its rows by name, in the order in which they are shown."""

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Final, NamedTuple

from runstore.bench.figures import Found
from runstore.bench.stage import Stage

NAMES: Final = (
    *(
        "push",
        "heard",
        "sustained",
        "waits",
        "projector",
        "lookup",
        "fanout",
        "sockets",
        "memory",
        "growth",
        "cold",
        "publish",
    ),
)


class Row(NamedTuple):
    """One row of the table."""

    name: str
    title: str
    measure: Callable[[Stage], Awaitable[Found]]


def load(name: str) -> Row:
    """Load a row by its name. Needs: one of `NAMES`."""
    module = import_module(f"runstore.bench.rows.{name}")
    return Row(name, module.TITLE, module.measure)
