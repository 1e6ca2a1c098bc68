"""Every text that cannot be read is answered with what to mend in it."""

import pytest

from runstore.core.errors import InvalidRequest
from runstore.gateway.submit import decode_body
from runstore.wire.event import decode_event

BODY = b'{"project_name":"forecasts",'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "it is empty: give a JSON object"),
        (b" \n", "it is empty: give a JSON object"),
        (b'\xef\xbb\xbf{"project_name":"forecasts"}', "byte order mark: leave that out"),
        (BODY + b'"timeout_s":NaN}', r"NaN is no number in JSON: give null or a text \(byte 40\)"),
        (BODY + b'"inputs":{"a":-Infinity}}', "Infinity is no number in JSON"),
        (BODY + b'"inputs":[Infinity]}', "Infinity is no number in JSON"),
        (BODY + b'"inputs":{"a":Nothing}}', "malformed: invalid character"),
        (BODY, "ends in the middle"),
        (BODY + rb'"inputs":{"a":"\ud800"}}', "half of a surrogate pair"),
        (BODY + b'"mode":"later"}', "Invalid enum value 'later' .* give one of async, sync"),
        (b'{"project_name":"\xff"}', "not UTF-8"),
        (BODY + b'"timeout_s":1e999}', "Number out of range"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_what_to_mend(text: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        decode_body(text)


@pytest.mark.parametrize("fields", [b'"status":"done"', b'"status":"success","output":{"status":"done"}'])
def test_a_status_that_is_none_is_answered_with_those_there_are(fields: bytes) -> None:
    with pytest.raises(InvalidRequest, match="give one of pending, running, success, failed, timed_out, cancelled"):
        decode_event(b'{"run_id":"66666666-6666-6666-6666-666666666666",%b}' % fields)
