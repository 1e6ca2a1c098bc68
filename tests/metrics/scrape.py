"""Numbers as Prometheus would read them."""

import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Read = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Read:
    """Every line of an answer, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def number(read: Read, name: str, **labels: str) -> float:
    """The sum of the lines of a name that have these labels."""
    wanted = set(labels.items())
    return sum(value for (told, held), value in read.items() if told == name and wanted <= set(held))


def fetched(url: str, **headers: str) -> Any:
    """Ask from another thread than the one that answers."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=15) as answer:
        return answer.read().decode()
