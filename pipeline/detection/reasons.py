"""Why a row was flagged, as codes that the report puts into words."""

from __future__ import annotations

import numpy as np

MISLABELLED = "mislabelled"
HARMFUL = "harmful"
AMBIGUOUS = "ambiguous"
DUPLICATE_CONFLICT = "duplicate-conflict"
BACKDOOR = "backdoor"


def reasons(
    decision: np.ndarray,
    contradicted: np.ndarray,
    harm: np.ndarray | None,
    conflicting: np.ndarray,
    carriers: np.ndarray,
) -> list[list[str]]:
    """A list of codes for every row; empty for rows that are kept.

    `mislabelled`: another label fits better out of sample; `duplicate-conflict`: the same features occur with
    another label; `harmful`: it raises the loss on clean validation rows; `ambiguous`: flagged by the ranking alone.
    `backdoor`: it carries a pattern that makes the model predict its label, which explains all else about it.
    All arguments are `[rows]`: str, bool, float64 (or None without a clean validation set), bool, bool.
    """
    found: list[list[str]] = []
    for row, what in enumerate(decision):
        codes: list[str] = []
        if what != "keep" and carriers[row]:
            codes.append(BACKDOOR)
        elif what != "keep":
            codes += [MISLABELLED] if contradicted[row] else []
            codes += [DUPLICATE_CONFLICT] if conflicting[row] else []
            codes += [HARMFUL] if harm is not None and harm[row] > 0 else []
            codes = codes or [AMBIGUOUS]
        found.append(codes)
    return found
