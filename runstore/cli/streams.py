"""Standard input, output and error as the system hands them over, made fit for use.

A pipe or file gets UTF-8, whatever the locale says: JSON is nothing else, and a log is what its model wrote. A
terminal gets what it can show. A stream that was closed by whoever started us (`>&-`) swallows what is written, and its
number does not go to the next socket.
"""

import io
import os
import sys
from typing import TextIO


def make_usable() -> None:
    """Make the three streams fit for use; may be called again."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for the process's life
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            if stream.isatty():
                stream.reconfigure(errors="backslashreplace")
            else:
                stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def let_go_of(stream: TextIO) -> None:
    """Write to nobody from now on: what still waits must not be tried again when the interpreter ends."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nobody, stream.fileno())
    os.close(nobody)
