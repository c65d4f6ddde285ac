"""Intervals for shares."""

from __future__ import annotations

import math

NORMAL_QUANTILE = 1.959964


def wilson(hits: int, number: int) -> dict[str, float]:
    """A share with its 95 % score interval: `{"value", "low", "high"}` (Wilson 1927); `number` is at least 1."""
    z, value = NORMAL_QUANTILE, hits / number
    centre = (value + z * z / (2 * number)) / (1 + z * z / number)
    half = z * math.sqrt(value * (1 - value) / number + z * z / (4 * number**2)) / (1 + z * z / number)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return {"value": value, "low": min(low, value), "high": max(high, value)}
