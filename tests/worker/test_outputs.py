"""The outputs of a model, whatever they are."""

import os

import pytest

from runstore_worker.outputs import Unreadable, read_outputs, text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "outputs.json"


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def test_outputs_that_were_not_written_are_none(path):
    assert read_outputs(path) == {}


def test_outputs_are_read_as_written(path):
    path.write_text('{"revenue": [100, 110, 121], "note": "ü", "big": 123456789012345678901234567890}')

    assert read_outputs(path) == {"revenue": [100, 110, 121], "note": "ü", "big": 123456789012345678901234567890}


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"nope", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\xff"}', b'{"a": "\\ud800"}']
)
def test_what_is_not_json_is_a_reason(path, raw):
    path.write_bytes(raw)

    outcome = read_outputs(path)

    assert isinstance(outcome, Unreadable)
    assert outcome.reason.startswith("RUNSTORE_OUTPUTS is no valid JSON: ")
    assert "\n" not in outcome.reason


@pytest.mark.parametrize("raw", ["[1]", "3", '"x"', "null"])
def test_outputs_must_have_names(path, raw):
    path.write_text(raw)

    assert read_outputs(path) == Unreadable("RUNSTORE_OUTPUTS must be a JSON object, a name for each output")


def test_outputs_may_be_as_large_as_the_limit_and_no_larger(path):
    path.write_text('{"a": 1}')

    assert read_outputs(path, max_bytes=8) == {"a": 1}
    assert read_outputs(path, max_bytes=7) == Unreadable("RUNSTORE_OUTPUTS is larger than 7 bytes")


@pytest.mark.parametrize("depth", [63, 64, 100_000])
def test_outputs_may_be_62_levels_deep_and_no_deeper(path, depth):
    path.write_text(nested(62))
    assert isinstance(read_outputs(path), dict)
    path.write_text(nested(depth))

    assert read_outputs(path) == Unreadable("RUNSTORE_OUTPUTS is nested deeper than 62 levels")


def test_a_link_is_not_followed(path, tmp_path):
    (tmp_path / "secret").write_text('{"secret": 1}')
    path.symlink_to(tmp_path / "secret")

    assert read_outputs(path) == Unreadable("RUNSTORE_OUTPUTS is no regular file")


def test_a_pipe_a_folder_and_a_device_are_no_outputs(path, tmp_path):
    os.mkfifo(path)

    for place in (path, tmp_path, type(path)("/dev/zero")):
        assert read_outputs(place) == Unreadable("RUNSTORE_OUTPUTS is no regular file")


def test_a_log_is_always_text():
    assert text(b"a\xffb") == "a\ufffdb"
    assert text("übel".encode()) == "übel"


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_log_cut_in_the_middle_of_a_character_begins_with_the_next(cut):
    assert text("🙂ok".encode()[cut:], cut=True) == "ok"
