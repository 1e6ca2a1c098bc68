"""deploy/observe: rules that Prometheus takes and that come when they should, and no query for what there is not."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runstore.metrics.table import BY_NAME
from tests.cli.processes import PATIENT, started, until
from tests.metrics.scrape import fetched

FOLDER = Path(__file__).parents[2] / "deploy" / "observe"
OPERATIONS = FOLDER.parents[1] / "docs" / "operations.md"
ALERTS = (FOLDER / "alerts.yml").read_text("utf-8")
RECORDED = re.findall(r"record: (\S+)", (FOLDER / "recording.yml").read_text("utf-8"))
NAME = re.compile(r"\b(?:runstore[_:]|process_)\w[\w:]*")
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)


def queries() -> list[str]:
    """Every query of the dashboard."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def expressions(text: str) -> Iterator[str]:
    """Every expression of a file of rules."""
    for block in re.split(r"- (?:alert|record):", text)[1:]:
        yield block.partition("expr:")[2].partition("for:")[0].partition("labels:")[0]


def unknown(expression: str) -> set[str]:
    """The metrics that an expression names and that nobody tells."""
    names = {re.sub(r"(?<=_seconds)_(bucket|sum|count)$", "", name) for name in NAME.findall(expression)}
    return {name for name in names if name not in BY_NAME and name not in RECORDED}


def test_every_query_of_the_dashboard_names_metrics_that_there_are() -> None:
    assert len(queries()) > 20
    assert not [(query, unknown(query)) for query in queries() if unknown(query) or not NAME.search(query)]


def test_every_rule_names_metrics_that_there_are() -> None:
    found = [*expressions(ALERTS), *expressions((FOLDER / "recording.yml").read_text("utf-8"))]

    assert len(found) > 20
    assert not [(expression, unknown(expression)) for expression in found if unknown(expression)]


def test_every_alert_has_its_section_of_the_runbook_and_a_test_that_it_comes() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    sections = re.findall(r"^### (\w+)$", OPERATIONS.read_text("utf-8"), re.MULTILINE)
    told = re.findall(r"runbook_url: docs/operations\.md#(\w+)", ALERTS)
    tested = re.findall(r"eval_time: \w+\n\s+alertname: (\w+)\n\s+exp_alerts:", _tests())
    quiet = re.findall(r"eval_time: 55m, alertname: (\w+)}", _tests())

    assert alerts == sections
    assert told == [alert.lower() for alert in alerts]
    assert sorted(set(tested)) == sorted(quiet) == sorted(alerts)


def _tests() -> str:
    return (FOLDER / "tests" / "alerts_test.yml").read_text("utf-8")


@needs_promtool
def test_prometheus_takes_the_configuration_and_the_alerts_come_when_they_should(tmp_path: Path) -> None:
    folder = tmp_path / "observe"
    shutil.copytree(FOLDER, folder)
    _told("promtool", "check", "config", "prometheus.yml", cwd=folder)
    _told("promtool", "test", "rules", "alerts_test.yml", cwd=folder / "tests")


@needs_promtool
def test_prometheus_takes_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{place}", "expr": query.replace("$__rate_interval", "1m")}
        for place, query in enumerate(queries())
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    assert f"{len(rules)} rules found" in _told("promtool", "check", "rules", "rules.yml", cwd=tmp_path)


@pytest.mark.slow
@PATIENT
@needs_promtool
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="apt-get install prometheus")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked for in /proc")
def test_a_real_prometheus_scrapes_each_role_and_evaluates_the_rules(tmp_path: Path, redis_url: str) -> None:
    from tests.metrics.test_processes import PROJECT, repository

    at = ("--redis-url", redis_url, "--metrics-port", "0")
    (tmp_path / "runstore.toml").write_text(PROJECT.format(repository(tmp_path / "model")))
    with (
        started("projector", *at, folder=tmp_path) as projector,
        started("gateway", "--port", "0", *at, folder=tmp_path) as gateway,
        started("worker", *at, folder=tmp_path) as worker,
    ):
        said = {"gateway": gateway.url + "/metrics"}
        said |= {"projector": projector.said["metrics_url"], "worker": worker.said["metrics_url"]}
        for url in said.values():
            done = subprocess.run(
                ["promtool", "check", "metrics"], input=fetched(url), capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        with prometheus(tmp_path, said) as ask:
            assert until(lambda: {job for job, up in ask("up") if up == 1} == {f"runstore-{role}" for role in said}, 60)
            assert until(lambda: ask("sum(runstore_projector_partitions)") == [("", 16.0)], 60)
            assert until(lambda: ask("runstore:spool_events:sum") == [("runstore-worker", 0.0)], 60)
            assert ask("min(runstore_ready)") == [("", 1.0)]
            assert ask('ALERTS{alertstate="firing"}') == []


class prometheus:  # noqa: N801 - used like a function
    """A Prometheus of the test's own that scrapes some addresses every second."""

    def __init__(self, folder: Path, urls: dict[str, str]) -> None:
        self._folder = folder / "prometheus"
        shutil.copytree(FOLDER, self._folder)
        text = (self._folder / "prometheus.yml").read_text("utf-8")
        text = re.sub(r"_interval: 15s", "_interval: 1s", text)
        for role, url in urls.items():
            address = url.removeprefix("http://").removesuffix("/metrics")
            target = re.compile(rf"(job_name: runstore-{role}\n.*?targets: )\[.*?\]", re.DOTALL)
            text = target.sub(rf'\1["{address}"]', text)
        (self._folder / "prometheus.yml").write_text(text)

    def __enter__(self) -> Any:
        log = (self._folder / "log.txt").open("wb")
        self._process = subprocess.Popen(
            [
                *("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"),
                *("--web.listen-address=127.0.0.1:0", "--log.format=json", "--log.level=info"),
            ],
            cwd=self._folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        return self._ask

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def _ask(self, query: str) -> list[tuple[str, float]]:
        """Ask Prometheus, and return jobs and values."""
        try:
            told = json.loads(fetched(f"{self._url()}/api/v1/query?query={urllib.parse.quote(query)}"))
        except OSError:
            time.sleep(0.1)
            return []
        return [(row["metric"].get("job", ""), float(row["value"][1])) for row in told["data"]["result"]]

    def _url(self) -> str:
        found = re.search(r'"address":"(127\.0\.0\.1:[1-9]\d*)".*"Listening on"', self._log())
        if found is None:
            raise OSError("it has not said yet where it listens")
        return f"http://{found[1]}"

    def _log(self) -> str:
        return (self._folder / "log.txt").read_text("utf-8", "replace")


def _told(*words: str, cwd: Path) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
