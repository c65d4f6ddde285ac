"""Does the diagonal of a wide head cost faithfulness? The linear datamodelling score of a small language model.

The texts are messages of `data_samples/sms_spam`, whose 499 most frequent words are the vocabulary. Models are trained
again on random halves of the rows, with half the steps. The score is the mean over validation messages of Spearman's
correlation, over the halves, of a message's loss with its forecast. Intervals come from drawing the halves anew.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.results import HOME
from benchmarks.timing import Row
from pipeline.attribution import RefinedSettings, Trajectory, TrajectoryRecorder, attribute, cross_entropy

SAMPLE = HOME.parent / "data_samples" / "sms_spam"
TASK = "sms_words"
VOCABULARY, TOKENS, ROWS, QUERIES = 500, 16, 256, 64
STEPS, BATCH, RATE = 80, 32, 3e-3
HALVES, SEEDS, DRAWS = 64, 2, 1000
WIDEST = 128
"""The limit for the diagonal: the head has 500 outputs, all other layers have fewer than this."""
MEAN = cross_entropy(reduction="mean")


def texts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Words of train and validation, and the words that follow, −100 beyond the end: int64 ``[rows, TOKENS]`` each."""
    found = {role: [_words(text) for text in _column(role)] for role in ("train", "validation")}
    common = Counter(word for words in found["train"] for word in words).most_common(VOCABULARY - 1)
    places = {word: place for place, (word, _) in enumerate(common, 1)}
    tensors: list[Tensor] = []
    for role, count in (("train", ROWS), ("validation", QUERIES)):
        rows = [words for words in found[role] if len(words) >= TOKENS // 2][:count]
        numbers = torch.full((count, TOKENS + 1), -1)
        for row, words in enumerate(rows):
            own = torch.tensor([places.get(word, 0) for word in words[: TOKENS + 1]])
            numbers[row, : len(own)] = own
        tensors += [numbers[:, :-1].clamp(min=0), numbers[:, 1:].where(numbers[:, 1:] >= 0, -100)]
    return tensors[0], tensors[1], tensors[2], tensors[3]


def _column(role: str) -> list[str]:
    paths = sorted((SAMPLE / role).glob("*.parquet"))
    return [text for path in paths for text in pq.read_table(path, columns=["text"])["text"].to_pylist()]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+|[.,!?]", text.lower())


def trained(
    build: Callable[[], nn.Module],
    words: Tensor,
    labels: Tensor,
    rows: Tensor,
    seed: int,
    folder: Path | None = None,
) -> nn.Module:
    """Trains on some rows, as many steps as these rows take, and records where there is a folder."""
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    steps = STEPS * len(rows) // len(words)
    recorder = None
    if folder is not None:
        recorder = TrajectoryRecorder(
            model, optimizer, folder, steps=steps, train_rows=len(rows), batch_size=BATCH
        )
    order = torch.cat([rows[torch.randperm(len(rows))] for _ in range(1 + steps * BATCH // len(rows))])
    for step in range(steps):
        some = order[step * BATCH : (step + 1) * BATCH]
        loss = functional.cross_entropy(model(words[some]).flatten(0, 1), labels[some].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.step(loss=loss)
    return model


def correlations(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation of every row: ``[queries]``."""
    ranks = [each.argsort(1).argsort(1).double() for each in (first, second)]
    centred = [each - each.mean(1, keepdim=True) for each in ranks]
    return (centred[0] * centred[1]).sum(1) / (centred[0].norm(dim=1) * centred[1].norm(dim=1))


def lds_rows(build: Callable[[], nn.Module], quick: bool = False) -> list[Row]:
    """The score of each method with and without the diagonal, and the difference."""
    words, labels, query_words, query_labels = texts()
    halves, seeds = (8, 1) if quick else (HALVES, SEEDS)
    generator = torch.Generator().manual_seed(0)
    kept = torch.stack([torch.randperm(ROWS, generator=generator)[: ROWS // 2] for _ in range(halves)])
    truth = torch.zeros(QUERIES, halves, dtype=torch.float64)
    for half, rows in enumerate(kept):
        for seed in range(seeds):
            model = trained(build, words, labels, rows, 1 + seed).eval()
            with torch.no_grad():
                losses = cross_entropy().losses(model(query_words), query_labels)
            truth[:, half] += losses.double() / seeds
    removed = torch.ones(halves, ROWS, dtype=torch.float64).scatter_(1, kept, 0.0)
    influences: dict[tuple[str, str], Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = trained(build, words, labels, torch.arange(ROWS), 0, Path(folder))
        for method in ("source", "source_refined"):
            for side, widest in (("whole", VOCABULARY), ("diagonal", WIDEST)):
                scores = attribute(
                    model,
                    Trajectory.load(folder),
                    [(words, labels)],
                    [(query_words, query_labels)],
                    loss=MEAN,
                    method=method,
                    widest_outputs=widest,
                    reduce_queries=False,
                    refined=RefinedSettings(rows=ROWS) if method == "source_refined" else None,
                )
                assert scores.influence is not None
                influences[method, side] = scores.influence
    return summaries(truth, influences, removed)


def summaries(truth: Tensor, influences: dict[tuple[str, str], Tensor], removed: Tensor) -> list[Row]:
    """The score of every method and side, with intervals.

    Args:
        truth: the loss of every query after training on every half, ``[queries, halves]``.
        influences: (method, `whole` or `diagonal`) -> ``[queries, rows]``.
        removed: 1 for the rows that a half lacks, ``[halves, rows]``.
    """
    forecasts = {key: influence @ removed.T for key, influence in influences.items()}
    halves = truth.shape[1]
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randint(halves, (halves,), generator=generator) for _ in range(DRAWS)]
    every = torch.arange(halves)

    def score(forecast: Tensor, some: Tensor) -> float:
        return float(correlations(truth[:, some], forecast[:, some]).mean())

    rows: list[Row] = []
    common = {"task": TASK, "n": truth.shape[0]}
    for method in dict.fromkeys(method for method, _ in forecasts):
        whole, diagonal = forecasts[method, "whole"], forecasts[method, "diagonal"]
        drawn = torch.tensor([[score(each, some) for each in (whole, diagonal)] for some in draws])
        values = [score(each, every) for each in (whole, diagonal)]
        for side, value, found in zip(("whole", "diagonal"), values, drawn.T, strict=True):
            low, high = found.quantile(torch.tensor([0.025, 0.975])).tolist()
            rows.append(
                common
                | {"method": f"{method}, {side}", "metric": "lds", "value": value, "low": low, "high": high}
            )
        change = drawn[:, 1] - drawn[:, 0]
        low, high = change.quantile(torch.tensor([0.025, 0.975])).tolist()
        difference = {"metric": "lds_difference", "value": values[1] - values[0], "low": low, "high": high}
        rows.append(common | {"method": f"{method}, diagonal − whole"} | difference)
        likeness = float(correlations(influences[method, "whole"], influences[method, "diagonal"]).mean())
        rows.append(
            common | {"method": f"{method}, diagonal", "metric": "rank_correlation", "value": likeness}
        )
    return rows
