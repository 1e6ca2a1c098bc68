"""Count the bytecodes that a piece of work takes in this thread: the same on every machine, however busy it is."""

import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any


async def bytecodes(work: Callable[[], Awaitable[Any]]) -> int:
    """Do the work, and return how many bytecodes it took, whatever runs on the loop meanwhile included."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        await work()
    finally:
        sys.settrace(before)
    return count
