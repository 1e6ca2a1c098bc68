"""Pauses before another attempt: doubling, and drawn at random so that many clients do not come at once."""

import random

from runstore.client.config import ClientConfig

_LEAST = 0.01


def pause_s(config: ClientConfig, attempt: int) -> float:
    """Draw the pause before an attempt, the first of which is 0. Units: seconds."""
    longest = min(config.max_backoff_s, config.backoff_s * 2 ** min(attempt, 30))
    return max(_LEAST, random.uniform(0, longest))  # noqa: S311 - spreads load, guards nothing
