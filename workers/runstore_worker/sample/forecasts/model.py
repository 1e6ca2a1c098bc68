"""Forecast monthly revenue: exponential smoothing of level and trend (Holt's method) on a logarithmic scale."""

import io
import json
import math
import os
import sys
import time
from itertools import product
from typing import Any

REVENUE = (20, 22, 25, 27, 30, 33, 36, 40, 43, 48, 52, 57, 63, 69, 76, 83, 91)  # thousands, one number a month
DEFAULTS = {"horizon": 3, "growth": None, "pause_s": 0.0}
STEPS = [step / 10 for step in range(1, 10)]


def say(line: str) -> None:
    """Tell how far it is, at once and not when a buffer is full."""
    print(line, flush=True)  # noqa: T201


def number(inputs: dict[str, Any], name: str, *, low: float, high: float) -> Any:
    """Take an input, or end with a sentence about it."""
    value = inputs.get(name, DEFAULTS[name])
    if value is None and DEFAULTS[name] is None:
        return None
    whole = isinstance(DEFAULTS[name], int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
        sys.exit(f"{name} must be a {'whole ' * whole}number from {low} to {high}, not {json.dumps(value)}")
    return value


def read_inputs() -> dict[str, Any]:
    """Read RUNSTORE_INPUTS; without it everything has its default."""
    path = os.environ.get("RUNSTORE_INPUTS")
    if not path:
        return {}
    with open(path, encoding="utf-8") as file:
        try:
            inputs = json.load(file)
        except ValueError as error:
            sys.exit(f"the inputs are not JSON: {error}")
    if inputs is None:
        return {}
    if not isinstance(inputs, dict):
        sys.exit('the inputs must be an object, such as {"horizon": 3}')
    if unknown := sorted(set(inputs) - set(DEFAULTS)):
        sys.exit(f"there is no input {unknown[0]}; there are {', '.join(DEFAULTS)}")
    return dict(inputs)


def smooth(series: list[float], alpha: float, beta: float) -> tuple[float, float, float]:
    """Follow a series; answer with the last level and trend, and the error of the forecasts one month ahead."""
    level, trend, error = series[0], series[1] - series[0], 0.0
    for value in series[1:]:
        ahead = level + trend
        error += (value - ahead) ** 2
        level, before = alpha * value + (1 - alpha) * ahead, level
        trend = beta * (level - before) + (1 - beta) * trend
    return level, trend, error


def main() -> None:
    """Fit, forecast, write."""
    begin = time.monotonic()
    inputs = read_inputs()
    horizon = number(inputs, "horizon", low=1, high=36)
    growth = number(inputs, "growth", low=-0.9, high=0.5)
    pause_s = number(inputs, "pause_s", low=0, high=3600)

    say(f"read {len(REVENUE)} months of revenue")
    say("fitting…")
    series = [math.log(value) for value in REVENUE]
    level, trend, error = min(
        (smooth(series, alpha, beta) for alpha, beta in product(STEPS, STEPS)), key=lambda fit: fit[2]
    )
    if growth is not None:
        trend = math.log1p(growth)
    time.sleep(pause_s)
    say(f"growth {math.expm1(trend):.1%} a month, typical error {math.sqrt(error / (len(series) - 1)):.1%}")

    say(f"forecasting {horizon} months")
    revenue = [round(math.exp(level + trend * month)) for month in range(1, horizon + 1)]
    if path := os.environ.get("RUNSTORE_OUTPUTS"):
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"revenue": revenue}, file)
    else:
        say(json.dumps({"revenue": revenue}))
    say(f"Run completed in {time.monotonic() - begin:.2f}s")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale
    main()
