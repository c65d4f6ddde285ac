"""Do the rules keep what they promise? Simulated on real audits whose wrong labels are known.

    python -m benchmarks.promises [--quick]

Each sample is audited once, as its config says, without verification (kept under benchmarks/cache/promises/). Its
ranking is then used 200 times:

- trusted: rows whose label was not planted are drawn as trusted; the share of the other such rows that is flagged
  has to be at most the rate on average.
- reviewed: an oracle answers sheet after sheet of a review with a random order of its own; the precision of what
  would be removed has to be as promised in 95 % of the reviews. A review that shows nothing removes nothing and so
  keeps its promise; how often that happens stands beside it.

"Wrong" means planted: errors that the originals have by themselves count as right.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import beta

import pipeline
from benchmarks.demo import ROOT, SAMPLES, planted
from benchmarks.results import CACHE, write_results
from pipeline.config import load_config
from pipeline.detection.people.review_sample import (
    RIGHT,
    UNANSWERED,
    WRONG,
    judge,
    make_plan,
    rows_to_ask,
    rows_to_remove,
)
from pipeline.detection.rules.choose import read_candidates
from pipeline.detection.rules.trusted import flag_by_trusted, needed_rows
from pipeline.results.result import AuditResult
from pipeline.seeds import random_state

NOISE = {
    "digits": "digits/uniform",
    "digits_pairs": "digits/pairs",
    "sms_spam": "sms_spam/uniform",
    "adult": "adult/uniform",
}
REPEATS = 200
RATES = (0.01, 0.05)
TRUSTED_ROWS = 3
"""Times as many as the promise takes."""
PRECISIONS = (0.8, 0.9)
CONFIDENCE = 0.95
SHEET = 50
CHANGES = {"verification.seeds": 0, "detection.backdoors": False}


@dataclass(frozen=True)
class Audited:
    """wrong, suspicion, classes: `[rows]`; candidates: places of the removable rows, the most suspicious first."""

    task: str
    wrong: np.ndarray
    suspicion: np.ndarray
    classes: np.ndarray
    candidates: np.ndarray
    flagged: int
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.promises")
    parser.add_argument("--quick", action="store_true", help="the digits alone, within a minute")
    samples = ["digits"] if parser.parse_args().quick else list(NOISE)
    rows: list[dict[str, Any]] = []
    for sample in samples:
        audited = audit(sample)
        rows += [*trusted(audited), *reviewed(audited)]
        for row in rows:
            if row["task"] == audited.task and "met" in row:
                print(
                    row["task"],
                    row["method"],
                    row["asked"],
                    row["metric"],
                    f"{row['value']:.4f}",
                    row["met"],
                    flush=True,
                )
    print(write_results("promises", rows))


def audit(sample: str) -> Audited:
    config = load_config(ROOT / "configs" / f"{sample}.yaml", CHANGES)
    result: AuditResult = pipeline.audit(config, CACHE / "promises" / sample)
    rows = pq.read_table(result.paths["rows"], columns=["row_key", "suspicion", "label"])
    wrong = planted(SAMPLES / sample / "truth.parquet", rows["row_key"])
    labels: pa.DictionaryArray = rows["label"].combine_chunks().dictionary_encode()
    return Audited(
        f"{NOISE[sample]}/{wrong.mean():.2g}",
        wrong,
        rows["suspicion"].to_numpy(),
        labels.indices.to_numpy().astype(np.int64),
        read_candidates(result.run.path),
        int(result.run.facts("detect")["review"]),
        config.detection.seed,
    )


def trusted(audited: Audited) -> Iterator[dict[str, Any]]:
    """Lines of the rule `trusted`, for every rate."""
    right = np.flatnonzero(~audited.wrong)
    for rate in RATES:
        number = TRUSTED_ROWS * needed_rows(rate)
        false_flags, recalls = [], []
        for repeat in range(REPEATS):
            is_trusted = np.zeros(len(audited.wrong), dtype=bool)
            drawn = random_state("trusted rows", repeat, number).choice(right, number, replace=False)
            is_trusted[drawn] = True
            flags = flag_by_trusted(audited.suspicion, is_trusted, audited.classes, rate)
            false_flags.append(flags.flagged[~audited.wrong & ~is_trusted].mean())
            recalls.append(flags.flagged[audited.wrong].mean())
        line = maker(audited.task, "trusted", f"rate {rate:g}", trusted_rows=number)
        found = line("false_flag_rate", false_flags)
        yield found | {"target": rate, "met": bool(found["value"] <= rate)}
        yield line("recall", recalls)


def reviewed(audited: Audited) -> Iterator[dict[str, Any]]:
    """Lines of the rule `reviewed`, for every precision."""
    wrong = audited.wrong[audited.candidates]
    for precision in PRECISIONS:
        kept, nothing, precisions, recalls, answers = [], [], [], [], []
        for repeat in range(REPEATS):
            head, answered = review(wrong, precision, audited.flagged, repeat)
            nothing.append(head == 0)
            kept.append(head == 0 or wrong[:head].mean() >= precision)
            precisions += [float(wrong[:head].mean())] if head else []
            recalls.append(wrong[:head].sum() / audited.wrong.sum())
            answers.append(answered)
        line = maker(audited.task, "reviewed", f"precision {precision:g}")
        yield line("promise_kept", [], share(sum(kept), REPEATS)) | {
            "target": CONFIDENCE,
            "met": bool(sum(kept) >= CONFIDENCE * REPEATS),
        }
        yield line("abstained", [], share(sum(nothing), REPEATS))
        if precisions:
            yield line("precision", precisions)
        yield line("recall", recalls)
        yield line("answers", answers)


def review(wrong: np.ndarray, precision: float, flagged: int, repeat: int) -> tuple[int, int]:
    """How many candidates a review shows to be wrong, and how many answers it took; wrong: bool `[candidates]`."""
    plan = make_plan(precision, CONFIDENCE, flagged, len(wrong), repeat)
    verdicts = np.full(plan.cutoffs[-1], UNANSWERED, dtype=np.int8)
    while asked := rows_to_ask(plan, verdicts, SHEET):
        places = [place for place, _ in asked]
        verdicts[places] = np.where(wrong[places], WRONG, RIGHT)
    return rows_to_remove(judge(plan, verdicts)), int((verdicts != UNANSWERED).sum())


def maker(task: str, method: str, asked: str, **more: Any) -> Callable[..., dict[str, Any]]:
    def line(metric: str, values: Sequence[float], found: dict[str, Any] | None = None) -> dict[str, Any]:
        row = {"task": task, "method": method, "asked": asked, **more, "metric": metric}
        return row | (mean(values) if found is None else found)

    return line


def mean(values: Sequence[float]) -> dict[str, Any]:
    """The mean with its 95 % interval over the repeats."""
    half = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    middle = float(np.mean(values))
    return {"value": middle, "low": middle - half, "high": middle + half, "n": len(values)}


def share(hits: int, number: int) -> dict[str, Any]:
    """A share with its exact 95 % interval (Clopper & Pearson 1934)."""
    low = float(beta.ppf(0.025, hits, number - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, number - hits)) if hits < number else 1.0
    return {"value": float(hits / number), "low": low, "high": high, "n": number}


if __name__ == "__main__":
    main()
