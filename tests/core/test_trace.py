"""Which trace a run can belong to."""

import pytest

from runstore.core.trace import read_traceparent

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("told", [TRACE, f" {TRACE} ", TRACE.replace("00-", "01-", 1) + "-more"])
def test_a_valid_traceparent_is_kept(told: str) -> None:
    assert read_traceparent(told) == told.strip()


@pytest.mark.parametrize(
    "told",
    [
        None,
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        TRACE.upper(),
        TRACE.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        TRACE + "\nx",
        TRACE + "-" + "x" * 300,
    ],
)
def test_what_is_no_traceparent_is_left_out(told: str | None) -> None:
    assert read_traceparent(told) is None
