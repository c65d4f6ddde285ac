"""Confidence intervals for shares."""

from __future__ import annotations

from scipy.stats import binomtest

NORMAL_QUANTILE = 1.959964


def wilson(hits: int, number: int) -> dict[str, float]:
    """A share with its 95 % score interval: `{"value", "low", "high"}` (Wilson 1927); `number` is at least 1."""
    found = binomtest(hits, number).proportion_ci(method="wilson")
    return {"value": hits / number, "low": float(found.low), "high": float(found.high)}
