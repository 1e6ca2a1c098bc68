"""The table of metrics: names by Prometheus' conventions, and a page that says the same."""

import re

import pytest

from runstore.metrics.table import FAMILIES, OF_ROUTES
from tests.metrics.page import PAGE, ROLES, table

UNITS = ("_seconds", "_bytes")


@pytest.mark.parametrize("role", ROLES)
def test_the_page_of_metrics_has_the_table_of_the_code(role: str) -> None:
    assert f"### {role}\n\n{table(role)}\n" in PAGE.read_text("utf-8")


def test_every_family_has_a_name_of_its_own_and_by_convention() -> None:
    names = [family.name for family in FAMILIES]

    assert len(names) == len(set(names))
    for family in FAMILIES:
        assert re.fullmatch(r"(runstore|process)_[a-z_]+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert bool(family.bounds) == (family.kind == "histogram")
        assert family.kind != "histogram" or family.name.endswith(UNITS)
        assert family.of in ROLES
        assert family.help.endswith("."), family.name


def test_no_label_has_many_values_or_names_what_there_are_many_of() -> None:
    for family in FAMILIES:
        assert not {"run", "run_id", "project", "project_name", "token", "peer", "worker"} & set(family.labels)
        assert all(values == OF_ROUTES or 2 <= len(values) <= 10 for values in family.labels.values())
