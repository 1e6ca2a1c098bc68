"""The rules that the final store must obey: it is one fold of its log, and its indexes are its runs. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, Final

import msgspec

from runstore.core.event import EntryId
from runstore.core.ids import RunId, to_bytes
from runstore.core.partition import partition_of
from runstore.core.run import HistoryItem, Run
from runstore.core.status import Status
from runstore.projection.batch import PAGE_RUNS
from runstore.projection.writes import end_ms
from runstore.wire.record import Record
from tests.chaos.history import Line
from tests.chaos.report import Report
from tests.projector.folded import fold_log

ACKNOWLEDGED: Final = "acknowledged is in the log"
FOLD: Final = "the hashes are one fold of the log"
INDEXES: Final = "the indexes are the hashes"
NUMBERS: Final = "run numbers are 1 to N"
FEED: Final = "the feed is dense"
ENDED: Final = "every run ends"
NOTHING_LEFT: Final = "nothing is left over"

Index = tuple[str, str]
"""The kind of an index, and what it is of: a project, with what else is in the key."""


class Rest(msgspec.Struct, kw_only=True):
    """The store as it is found when nobody writes any more, and what is left besides."""

    partitions: int
    log: dict[int, list[tuple[EntryId, dict[bytes, bytes]]]]
    records: dict[RunId, Record]
    histories: dict[RunId, list[HistoryItem]]
    indexes: dict[tuple[int, str, str], dict[bytes, int]]
    feed: dict[int, list[tuple[int, bytes, bytes | None]]]
    left: dict[str, int]

    @property
    def runs(self) -> dict[RunId, Run]:
        return {run_id: record.run for run_id, record in self.records.items()}


def check_store(
    final: Rest,
    acknowledged: Mapping[str, Line],
    report: Report,
    *,
    is_exact: bool = True,
    may_lose: Callable[[Line], bool] = lambda _: False,
) -> None:
    """Check the final store. `acknowledged` are the ids of events with the lines that say so.

    `is_exact` false: the log was written anew meanwhile, so counts and times need not be those of one fold. `may_lose`
    says whether what was acknowledged by a line may be gone.
    """
    in_log = _check_fold(final, report, is_exact=is_exact)
    for event_id, line in acknowledged.items():
        if event_id in in_log:
            continue
        report.counts["acknowledged events lost"] += 1
        if not may_lose(line):
            report.broken(ACKNOWLEDGED, f"event {event_id} of run {line.run_id} is not in the log")
    for run_id, record in final.records.items():
        if not record.run.is_terminal:
            report.broken(ENDED, f"{run_id} is {record.run.status}")
    _check_indexes(final, report, is_exact=is_exact)
    _check_numbers(final.runs.values(), report)
    if is_exact:
        _check_feed(final, report)
    for what, number in final.left.items():
        report.counts["kinds of leftovers looked for"] += 1
        if number:
            report.broken(NOTHING_LEFT, f"{number} {what}")


def _check_fold(final: Rest, report: Report, *, is_exact: bool) -> set[str]:
    in_log: set[str] = set()
    numbers = {run_id: run.run_number for run_id, run in final.runs.items()}
    folded = fold_log(final.log, final.partitions, lambda run_id, _: numbers.get(run_id))
    for run_id, run in folded.runs.items():
        report.counts["runs folded anew"] += 1
        found = final.records.get(run_id)
        if found is None:
            report.broken(FOLD, f"{run_id} is in the log and has no hash")
        elif (_comparable(found.run) != _comparable(run)) if is_exact else found.run.status != run.status:
            report.broken(FOLD, f"{run_id}: {_difference(run, found.run)}")
        elif is_exact and final.histories[run_id] != folded.histories[run_id]:
            report.broken(FOLD, f"{run_id} has another history than its log")
    for run_id in final.records.keys() - folded.runs.keys():
        report.broken(FOLD, f"{run_id} has a hash and is not in the log")
    report.counts["events folded anew"] += folded.events
    if folded.dead and is_exact:
        report.broken(FOLD, f"{folded.dead} events of the log are refused")
    in_log.update(folded.event_ids)
    return in_log


def _comparable(run: Run) -> Run:
    return msgspec.structs.replace(
        run,
        output=run.output and msgspec.structs.replace(run.output, output_bytes=0, chunks=0, truncated=False),
        late_output=run.late_output
        and msgspec.structs.replace(run.late_output, output_bytes=0, chunks=0, truncated=False),
    )


def _difference(folded: Run, found: Run) -> str:
    one, other = msgspec.structs.asdict(_comparable(folded)), msgspec.structs.asdict(_comparable(found))
    return ", ".join(f"{name} is {other[name]!r}, by its log {one[name]!r}" for name in one if one[name] != other[name])


def expected_indexes(partition: int, records: Iterable[Record]) -> dict[tuple[int, str, str], dict[bytes, int]]:
    """Return what the indexes of a partition must hold, by its runs."""
    found: dict[tuple[int, str, str], dict[bytes, int]] = defaultdict(dict)
    pages: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for record in records:
        run, packed = record.run, to_bytes(record.run.run_id)
        found[partition, "i", f"{packed.hex()[:3]}:{run.project_name}"][packed] = 0
        found[partition, "t", f"{record.page}:{run.project_name}"][packed] = run.created_ms
        pages[run.project_name, record.page].append(run)
        if run.status is not Status.SUCCESS:
            found[partition, "s", f"{run.status}:{run.project_name}"][packed] = run.created_ms
    for (project, page), runs in pages.items():
        member = b"%d" % page
        found[partition, "tp", project][member] = min(run.created_ms for run in runs)
        ended = [end_ms(run) for run in runs if run.is_terminal]
        if ended:
            found[partition, "tf", project][member] = max(ended)
    return dict(found)


def _check_indexes(final: Rest, report: Report, *, is_exact: bool) -> None:
    by_partition: dict[int, list[Record]] = defaultdict(list)
    for run_id, record in final.records.items():
        by_partition[partition_of(run_id, final.partitions)].append(record)
    expected: dict[Any, dict[bytes, int]] = {}
    for partition, records in by_partition.items():
        expected |= expected_indexes(partition, records)
        for project, pages in _page_sizes(records).items():
            if any(size > PAGE_RUNS for size in pages.values()):
                report.broken(INDEXES, f"a page of {project} in partition {partition} holds too many")
    for key in expected.keys() | final.indexes.keys():
        report.counts["indexes compared"] += 1
        one, other = expected.get(key, {}), final.indexes.get(key, {})
        if one.keys() != other.keys() or (is_exact and one != other):
            report.broken(INDEXES, f"{key} holds other than the runs say")


def _page_sizes(records: Iterable[Record]) -> dict[str, dict[int, int]]:
    sizes: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        sizes[record.run.project_name][record.page] += 1
    return sizes


def _check_numbers(runs: Iterable[Run], report: Report) -> None:
    numbers: dict[str, list[int]] = defaultdict(list)
    for run in runs:
        if run.run_number is not None:
            numbers[run.project_name].append(run.run_number)
    for project, found in numbers.items():
        report.counts["run numbers"] += len(found)
        if sorted(found) != list(range(1, len(found) + 1)):
            report.broken(NUMBERS, f"{project} counts {len(found)} runs, by other numbers than 1 to that")


def _check_feed(final: Rest, report: Report) -> None:
    for partition, entries in final.feed.items():
        report.counts["feed entries"] += len(entries)
        for (n, nonce, _), (after, _, before) in pairwise(entries):
            if after != n + 1 or before != nonce:
                report.broken(FEED, f"entry {after} of partition {partition} does not follow {n}")
