"""How far ahead an arm with evidence is: of the best usual ranking that has no more evidence."""

from __future__ import annotations

from benchmarks.own_evidence import ARMS, PEERS, rows_of


def draw(**values: float) -> dict[str, float]:
    given = dict(zip((*ARMS, *PEERS), (0.5, 0.6, 0.7, 0.8, 0.3, 0.2, 0.65)))
    return given | {name.replace("_", ", "): value for name, value in values.items()}


def test_an_arm_is_compared_with_means_of_what_sees_the_same() -> None:
    rows = rows_of(
        {"one": [draw(winnow=0.4), draw(winnow=0.6)], "two": [draw(), draw(winnow_embeddings=0.4)]}
    )
    found = {(row["task"], row["method"], row["metric"]): row["value"] for row in rows}
    assert found["one", "winnow", "average_precision"] == 0.5
    ahead = {
        arm: (found["all", arm, "ahead, mean over sets"], found["all", arm, "ahead, least set"])
        for arm, evidence in ARMS.items()
        if evidence
    }
    expected = {
        "winnow, embeddings": (0.05, 0.0),  # 0.6 and 0.5, beside 0.5 without evidence
        "winnow, pred_probs": (0.05, 0.05),  # 0.7, beside 0.65 of cleanlab
        "winnow, both": (0.15, 0.15),
    }
    assert {arm: tuple(round(each, 9) for each in both) for arm, both in ahead.items()} == expected
