"""The numbers of an archive and of those who move runs into it, as the table of metrics names them."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from runstore.archive.archive import Archive
from runstore.metrics.samples import Sample

if TYPE_CHECKING:
    from runstore.archive.archiver import Archiver


def numbers_of(archive: Archive | None, archivers: "Sequence[Archiver]") -> Callable[[], Iterator[Sample]]:
    """Make what reads the numbers of an archive; it tells nothing where there is none."""

    def read() -> Iterator[Sample]:
        if archive is not None:
            yield Sample("runstore_archive_requests_total", archive.objects.requests)
            yield Sample("runstore_archive_failures_total", archive.objects.failures)
        for archiver in archivers:
            yield Sample("runstore_archived_runs_total", archiver.moved, ("moved",))
            yield Sample("runstore_archived_runs_total", archiver.failed, ("failed",))
            yield Sample("runstore_archiver_failed_turns_total", archiver.turns_failed)
            yield Sample("runstore_archiver_idle_seconds", archiver.idle_s)

    return read
