"""The table of docs/metrics.md, as it follows from the table in the code: `python -m tests.metrics.page` prints it."""

from pathlib import Path
from typing import Final

from runstore.metrics.table import FAMILIES, OF_ROUTES, Family

PAGE: Final = Path(__file__).parents[2] / "docs" / "metrics.md"
ROLES: Final = ("gateway", "projector", "worker", "every role")


def table(role: str) -> str:
    """Write the table of one role."""
    rows = [_row(family) for family in FAMILIES if family.of == role]
    return "\n".join(["| metric | kind | labels | what it is |", "|---|---|---|---|", *rows])


def _row(family: Family) -> str:
    labels = "; ".join(f"`{name}`: {_values(values)}" for name, values in family.labels.items())
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help} |"


def _values(values: tuple[str, ...]) -> str:
    return "those of the routes, `none`" if values == OF_ROUTES else ", ".join(f"`{value}`" for value in values)


if __name__ == "__main__":
    for role in ROLES:
        print(f"\n### {role}\n\n{table(role)}")
