"""The benchmarks themselves: what a ratio is, what a report says, and that rows run."""

from xml.etree import ElementTree

import msgspec
import pytest

from runstore.bench.figures import Found, percentile
from runstore.bench.plot import draw
from runstore.bench.report import Report, Told, begin, row_text
from runstore.bench.run import run
from runstore.bench.table import NAMES, load
from runstore.gateway.outbox import text_frame


def found() -> Found:
    made = Found()
    ours, theirs = [2.0, 3.0, 10.0], [1.0, 2.0, 2.0]
    made.ours("publish()", "µs", ours)
    made.yardstick("xadd", "µs", theirs)
    made.at_most(1.5, "CPU", ours, theirs)
    return made


def test_a_check_holds_the_median_of_the_rounds_ratios_against_its_limit() -> None:
    check = found().checks[0]

    assert check.values == (2.0, 1.5, 5.0)
    assert not check.is_met
    assert msgspec.structs.replace(check, limit=2.0).is_met
    assert msgspec.structs.replace(check, at_most=False).is_met


def test_a_row_says_medians_with_ranges_and_whether_the_goal_was_reached() -> None:
    text = row_text(Told(name="publish", title="what it costs", found=found()))

    assert "3 (2–10) µs" in text
    assert "(xadd)" in text
    assert "2 (1.5–5)   goal: at most 1.5: MISSED" in text


def test_a_row_that_failed_says_why() -> None:
    assert "failed: OSError: full" in row_text(Told(name="a", title="b", failure="OSError: full"))


def test_a_plot_is_wellformed_and_names_every_goal() -> None:
    report = begin("Valkey <9>", rounds=3, scale=1.0)
    report.rows.append(Told(name="publish", title="t", found=found()))

    svg = draw(report)

    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert "publish: CPU" in texts
    assert any("Valkey <9>" in (text or "") for text in texts)


def test_a_report_can_be_read_back_from_its_json() -> None:
    report = begin("a server", rounds=1, scale=1.0)
    report.rows.append(Told(name="publish", title="t", found=found()))

    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_a_percentile_is_not_exceeded_by_so_many_percent_of_the_values() -> None:
    assert percentile(list(range(101)), 99) == pytest.approx(99)
    assert percentile([7.0], 50) == 7.0


@pytest.mark.parametrize("name", NAMES)
def test_every_row_can_be_loaded_and_has_a_title(name: str) -> None:
    assert load(name).title


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "heard"])
def test_every_row_runs_on_a_small_scale(name: str, redis_url: str) -> None:
    report = run([name], rounds=1, scale=0.01, redis_url=redis_url, tell=lambda *_: None)

    assert [told.failure for told in report.rows] == [None]
    assert report.rows[0].found.checks


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_frame_says_its_length_as_the_protocol_wants(size: int) -> None:
    frame = text_frame(b"x" * size)

    head = 2 if size < 126 else 4 if size < 65_536 else 10
    assert frame[0] == 0x81
    assert frame[1] == (size if size < 126 else 126 if size < 65_536 else 127)
    assert int.from_bytes(frame[2:head], "big") == (size if head > 2 else 0)
    assert frame[head:] == b"x" * size
