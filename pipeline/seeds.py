"""Random draws that don't share their randomness: the same seed for two purposes gives unrelated streams.

Without this, two permutations of equally many rows under equal seeds would be the same permutation: a random removal
could be exactly the rows that somebody's script corrupted with the same seed.
"""

from __future__ import annotations

import hashlib

import numpy as np


def random_state(purpose: str, *numbers: int) -> np.random.RandomState:
    """A generator for `purpose`; RandomState, since its streams are frozen across numpy versions."""
    digest = hashlib.sha256(f"{purpose}/{numbers}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4"))
