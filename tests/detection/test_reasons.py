from __future__ import annotations

from itertools import product

import numpy as np

from pipeline.detection.decisions import DECISIONS
from pipeline.detection.reasons import in_words, reasons


def expected(decision: str, contradicted: bool, harm: float, conflicting: bool, carrier: bool) -> list[str]:
    if decision == "keep":
        return []
    if carrier:
        return ["backdoor"]
    codes = ["mislabelled"] * contradicted + ["duplicate-conflict"] * conflicting + ["harmful"] * (harm > 0)
    return codes or ["ambiguous"]


def test_every_combination_of_evidence_gives_its_codes_in_order() -> None:
    cases = list(
        product(range(len(DECISIONS)), [False, True], [-1.0, 0.0, 1.0], [False, True], [False, True])
    )
    decision, contradicted, harm, conflicting, carriers = map(np.array, zip(*cases))
    found = reasons(decision.astype(np.uint8), contradicted, harm, conflicting, carriers)
    assert found.dtype == np.uint8
    assert in_words(found).to_pylist() == [expected(DECISIONS[what], *rest) for what, *rest in cases]


def test_without_clean_validation_rows_nothing_is_harmful() -> None:
    none = np.zeros(1, dtype=bool)
    found = reasons(np.full(1, DECISIONS.index("remove"), np.uint8), none, None, none, none)
    assert in_words(found).to_pylist() == [["ambiguous"]]
