"""All clocks and all chance of a process, taken over by a simulation."""

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tests.simulation.loop import SimulatedLoop

BASE_S = 1_700_000_000.0
_current: list[SimulatedLoop] = []
_chance = random.Random()


def _monotonic() -> float:
    return _current[-1].now_s


def _time() -> float:
    return BASE_S + _current[-1].now_s


def _urandom(count: int) -> bytes:
    return _chance.randbytes(count)


_TIME = SimpleNamespace(**vars(time))
_TIME.time, _TIME.monotonic = _time, _monotonic


@contextmanager
def simulated_clocks() -> Iterator[None]:
    """Let every module of ours read the time of the loop that runs, and draw secrets from its seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "_urandom", _urandom)
        for name, module in list(sys.modules.items()):
            if not name.startswith("runstore"):
                continue
            for attribute, value in list(vars(module).items()):
                if value is time.monotonic:
                    patch.setattr(module, attribute, _monotonic)
                elif value is time.time:
                    patch.setattr(module, attribute, _time)
                elif value is time:
                    patch.setattr(module, attribute, _TIME)
        yield


@contextmanager
def time_of(loop: SimulatedLoop, seed: int) -> Iterator[None]:
    """Let it be the time of a loop. Needs: `simulated_clocks`."""
    _chance.seed(seed)
    random.seed(seed)
    _current.append(loop)
    try:
        yield
    finally:
        _current.pop()
