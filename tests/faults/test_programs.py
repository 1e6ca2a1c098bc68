"""The programs that print figures, played small: what they must show at any size."""

from pathlib import Path

import pytest

from tests.cli.processes import PATIENT
from tests.faults import crowd, readers

pytestmark = [pytest.mark.slow, PATIENT]


async def test_sockets_that_lose_their_gateway_at_once_resume_and_miss_nothing(tmp_path: Path) -> None:
    figures = await crowd.play(tmp_path, sockets=200, runs=50)

    assert (figures.missed, figures.resets) == (0, 0)


async def test_who_never_reads_is_cut_off_and_who_reads_misses_nothing(tmp_path: Path) -> None:
    figures = readers.Figures(readers=20, never=20, message_kib=32, a_second=50)
    await readers.play(tmp_path, figures=figures, events=20)

    assert figures.missed == 0
    assert figures.cut_off == 20
