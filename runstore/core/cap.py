"""The cap: an output never exceeds its limit, counted in bytes of its compact UTF-8 JSON.

What is over is cut from the beginning of the logs, the longer one first, no more than needed and never in the middle
of a character. `outputs` is kept whole if it fits by itself beside empty logs, else it becomes null.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from runstore.core.status import Status

CAP_BYTES: Final = 1024 * 1024
_NULL: Final = msgspec.Raw(b"null")
_PIECE: Final = 64 * 1024


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
    stdout, stderr = output.stdout, output.stderr
    # a character is a byte at least, so what has more of them need not be written out whole to know that it is over
    if len(stdout) + len(stderr) <= limit_bytes and len(msgspec.json.encode(output)) <= limit_bytes:
        return output, False
    out_bytes, err_bytes = encoded_bytes(stdout), encoded_bytes(stderr)
    bare = len(msgspec.json.encode(msgspec.structs.replace(output, stdout="", stderr="")))
    if bare > limit_bytes:
        bare += len(bytes(_NULL)) - len(bytes(output.outputs))
        output = msgspec.structs.replace(output, outputs=_NULL)
    excess = bare + out_bytes + err_bytes - limit_bytes
    if excess > 0 and out_bytes >= err_bytes:
        stdout, dropped = drop_beginning(stdout, excess)
        stderr, _ = drop_beginning(stderr, excess - dropped)
    elif excess > 0:
        stderr, dropped = drop_beginning(stderr, excess)
        stdout, _ = drop_beginning(stdout, excess - dropped)
    return msgspec.structs.replace(output, stdout=stdout, stderr=stderr), True


def encoded_bytes(text: str) -> int:
    """Count the bytes of a text inside JSON's quotes."""
    return sum(len(msgspec.json.encode(piece)) - 2 for piece in _pieces(text))


def drop_beginning(text: str, least_bytes: int) -> tuple[str, int]:
    """Drop whole characters from the beginning until at least so many encoded bytes are gone.

    Return what is left and the encoded bytes that were dropped: as few as possible, all where the text is shorter.
    """
    if least_bytes <= 0:
        return text, 0
    dropped, begin = 0, 0
    for piece in _pieces(text):
        more = encoded_bytes(piece)
        if dropped + more >= least_bytes:
            least = _least_characters(piece, least_bytes - dropped)
            return text[begin + least :], dropped + encoded_bytes(piece[:least])
        dropped, begin = dropped + more, begin + len(piece)
    return "", dropped


def _least_characters(text: str, least_bytes: int) -> int:
    """Count how many characters from the beginning hold so many encoded bytes."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        if encoded_bytes(text[:middle]) >= least_bytes:
            high = middle
        else:
            low = middle + 1
    return low


def _pieces(text: str) -> Iterator[str]:
    """Cut a text so that neither time nor memory grows by more than its length: a log may have 64 MiB."""
    return (text[begin : begin + _PIECE] for begin in range(0, len(text), _PIECE))
