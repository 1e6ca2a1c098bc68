"""The ring that keeps the end of a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore_worker.tail import Tail


@given(chunks=st.lists(st.binary(max_size=30)), keep=st.integers(1, 40), last=st.integers(0, 50))
def test_the_end_of_what_was_written_is_what_is_read(tmp_path_factory, chunks, keep, last):
    path = tmp_path_factory.mktemp("tail") / "log"
    whole = b"".join(chunks)

    with Tail(path, keep) as tail:
        for chunk in chunks:
            tail.write(chunk)

        assert tail.read() == whole[-keep:]
        assert tail.read(last) == whole[-keep:][max(0, min(keep, len(whole)) - last) :]
        assert (tail.total_bytes, tail.dropped_bytes) == (len(whole), max(0, len(whole) - keep))
    assert path.stat().st_size == min(keep, len(whole))


def test_a_file_that_exists_is_not_written_over(tmp_path):
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FileExistsError):
        Tail(tmp_path / "log")


def test_a_tail_may_be_closed_twice(tmp_path):
    tail = Tail(tmp_path / "log")

    tail.close()
    tail.close()
