"""The cap: an output never exceeds its limit, counted in bytes of its compact UTF-8 JSON.

What is over is cut from the beginning of the logs, the longer one first, no more than needed and never in the middle
of a character. `outputs` is kept whole if it fits by itself beside empty logs, else it becomes null.
"""

from typing import Final

import msgspec

from runstore.core.status import Status

CAP_BYTES: Final = 1024 * 1024
_NULL: Final = msgspec.Raw(b"null")


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """What a run left behind, in the order of the contract. `outputs` is kept as the JSON it came as, compact."""

    status: Status
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    outputs: msgspec.Raw = _NULL


def cap(output: Output, limit_bytes: int = CAP_BYTES) -> tuple[Output, bool]:
    """Cut an output to its limit, and say whether anything was cut.

    Needs: `outputs` in compact form; a limit that an output with empty logs and null outputs fits in.
    """
    size = len(msgspec.json.encode(output))
    if size <= limit_bytes:
        return output, False
    out_bytes, err_bytes = encoded_bytes(output.stdout), encoded_bytes(output.stderr)
    bare = size - out_bytes - err_bytes
    if bare > limit_bytes:
        bare += len(bytes(_NULL)) - len(bytes(output.outputs))
        output = msgspec.structs.replace(output, outputs=_NULL)
    excess = bare + out_bytes + err_bytes - limit_bytes
    stdout, stderr = output.stdout, output.stderr
    if excess > 0 and out_bytes >= err_bytes:
        stdout, dropped = drop_beginning(stdout, excess)
        stderr, _ = drop_beginning(stderr, excess - dropped)
    elif excess > 0:
        stderr, dropped = drop_beginning(stderr, excess)
        stdout, _ = drop_beginning(stdout, excess - dropped)
    return msgspec.structs.replace(output, stdout=stdout, stderr=stderr), True


def encoded_bytes(text: str) -> int:
    """Count the bytes of a text inside JSON's quotes."""
    return len(msgspec.json.encode(text)) - 2


def drop_beginning(text: str, least_bytes: int) -> tuple[str, int]:
    """Drop whole characters from the beginning until at least so many encoded bytes are gone.

    Return what is left and the encoded bytes that were dropped: as few as possible, all where the text is shorter.
    """
    if least_bytes <= 0:
        return text, 0
    all_bytes = encoded_bytes(text)
    kept_bytes = all_bytes - least_bytes
    # no character has less than a byte: what is kept begins no further from the end, however long the text
    low, high = max(0, len(text) - max(0, kept_bytes)), len(text)
    while low < high:
        middle = (low + high) // 2
        if encoded_bytes(text[middle:]) <= kept_bytes:
            high = middle
        else:
            low = middle + 1
    return text[low:], all_bytes - encoded_bytes(text[low:])
