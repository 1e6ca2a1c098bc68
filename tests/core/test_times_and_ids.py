"""Times, run ids, prefixes, project names and partitions."""

from binascii import crc32
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.errors import AmbiguousRunId, InvalidRequest, InvalidRunId, RunstoreError
from runstore.core.ids import check_project_name, derive_run_id, from_bytes, parse_prefix, parse_run_id, to_bytes
from runstore.core.partition import by_partition, partition_of
from runstore.core.times import from_datetime, from_iso, to_iso


def test_a_time_shows_microseconds_only_where_they_are_not_zero() -> None:
    assert to_iso(1_777_370_400_000_000) == "2026-04-28T10:00:00+00:00"
    assert to_iso(1_777_370_401_420_000) == "2026-04-28T10:00:01.420000+00:00"


def test_an_offset_and_a_z_are_read_as_the_same_moment() -> None:
    assert from_iso("2026-04-28T12:00:00+02:00") == from_iso("2026-04-28T10:00:00Z") == from_iso("2026-04-28T10:00:00")
    assert from_iso("2026-04-28t10:00:00z") == from_iso("2026-04-28 10:00:00+00:00") == from_iso("2026-04-28T10:00:00Z")


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 30)), st.integers(-14, 14))
def test_every_time_comes_back_as_it_was_told(naive: datetime, hours: int) -> None:
    aware = naive.replace(tzinfo=UTC)

    assert from_iso(to_iso(from_datetime(aware))) == from_datetime(aware.astimezone(timezone(timedelta(hours=0))))
    assert from_datetime(naive) == from_datetime(aware)


@pytest.mark.parametrize("text", ["", "soon", "1969-12-31T23:59:59+00:00", "9999-12-31T23:59:59-14:00", "2026-13-01"])
def test_what_is_no_time_is_named_in_the_error(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"ISO 8601|1970|9999"):
        from_iso(text)


@pytest.mark.parametrize("text", ["6666", "66666666-66", "ABCDEF12", " 6666 ", "6666-6666-6666"])
def test_a_prefix_is_four_digits_or_more_with_dashes_and_case_of_any_kind(text: str) -> None:
    assert text.strip().lower().replace("-", "") == parse_prefix(text)


@pytest.mark.parametrize("text", ["", "666", "6-6-6", "66g6", "6666" * 9, "６６６６", "-" * 10_000, "\n", "../../etc"])
def test_what_is_no_prefix_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(InvalidRunId, match="hex digits"):
        parse_prefix(text)


@pytest.mark.parametrize("spell", [str, lambda u: str(u).upper(), lambda u: u.hex, lambda u: f" {u} "])
def test_any_spelling_of_a_uuid_is_one_run_id(spell: object) -> None:
    uuid = uuid4()

    assert parse_run_id(spell(uuid)) == str(uuid)  # type: ignore[operator]


def test_a_prefix_is_no_whole_run_id() -> None:
    with pytest.raises(InvalidRunId, match="whole run id"):
        parse_run_id("6666")


@given(st.uuids())
def test_a_run_id_comes_back_from_its_bytes(uuid: UUID) -> None:
    assert from_bytes(to_bytes(parse_run_id(str(uuid)))) == str(uuid)


def test_the_same_parts_give_the_same_run_id_and_shifted_parts_another() -> None:
    assert derive_run_id("ab", "c") == derive_run_id("ab", "c") != derive_run_id("a", "bc")


@pytest.mark.parametrize("name", ["forecasts", "team/model-2", "a", "A.b_c", "0"])
def test_a_project_name_may_have_letters_digits_and_a_few_signs(name: str) -> None:
    assert check_project_name(name) == name


@pytest.mark.parametrize("name", ["", "-x", "a b", "a\n", "{a}", "a" * 101, "é"])
def test_other_project_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="project name"):
        check_project_name(name)


@given(st.uuids(), st.integers(1, 64))
def test_the_partition_is_the_crc_of_the_canonical_id(uuid: UUID, partitions: int) -> None:
    assert partition_of(parse_run_id(str(uuid)), partitions) == crc32(str(uuid).encode()) % partitions


@given(st.lists(st.uuids()), st.integers(1, 64))
def test_what_is_grouped_by_partition_is_all_there_in_its_order(uuids: list[UUID], partitions: int) -> None:
    run_ids = [parse_run_id(str(uuid)) for uuid in uuids]

    found = by_partition(enumerate(run_ids), partitions, lambda item: item[1])

    assert sorted(item for some in found.values() for item in some) == list(enumerate(run_ids))
    for partition, some in found.items():
        assert some == [item for item in enumerate(run_ids) if partition_of(item[1], partitions) == partition]


def test_an_error_without_a_sentence_still_says_its_code() -> None:
    assert RunstoreError().detail == "error"
    assert InvalidRequest("mend this").detail == "mend this"


def test_an_ambiguous_prefix_carries_its_candidates() -> None:
    error = AmbiguousRunId("two runs match", ("a", "b"))

    assert (error.detail, error.candidates) == ("two runs match", ("a", "b"))
