"""Unrolled and refined methods through the front door, as a user's loop would use them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import (
    AttributionError,
    RefinedSettings,
    Replay,
    ReplayRecorder,
    Scores,
    Trajectory,
    TrajectoryRecorder,
    WindowRecorder,
    attribute,
    get_objective,
    row_source,
    unrolled_harm,
)

ROWS, STEPS, BATCH = 60, 60, 20


class Recorded:
    """A small classifier with six wrong labels, recorded for every method."""

    def __init__(self, directory: Path, lr: float = 0.05, adam: bool = False) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        inputs, clean = torch.randn(ROWS, 4).double(), torch.randn(40, 4).double()
        labels = inputs[:, :3].argmax(1)
        labels[:6] = (labels[:6] + 1) % 3
        self.train = list(zip(inputs.split(25), labels.split(25), strict=True))
        self.query = [(clean, clean[:, :3].argmax(1))]
        self.directory = directory
        model = self.model
        if adam:
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        sizes = {"steps": STEPS, "train_rows": ROWS}
        trajectory = TrajectoryRecorder(model, optimizer, directory / "trajectory", **sizes)
        replay = ReplayRecorder(model, optimizer, directory / "replay", **sizes)
        pieces = WindowRecorder(model, optimizer, directory / "pieces", batch_size=BATCH, **sizes)
        for _ in range(STEPS // 3):
            for rows in torch.randperm(ROWS).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
                optimizer.step()
                trajectory.step()
                replay.step(rows)
                pieces.step()

    def scores(self, method: str, recording: str | None = None, **options) -> Scores:
        return attribute(
            self.model,
            Trajectory.load(self.directory / "trajectory"),
            self.train,
            self.query,
            method=method,
            recording=None if recording is None else self.directory / recording,
            **options,
        )


def correlation(first: Tensor | None, second: Tensor | None) -> float:
    assert first is not None
    assert second is not None
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


@pytest.mark.parametrize("adam", [False, True])
def test_all_methods_agree_about_a_calm_training(tmp_path: Path, adam: bool) -> None:
    run = Recorded(tmp_path, lr=0.02, adam=adam)
    exact = run.scores("unrolled", "replay")
    smoothed, refined = run.scores("unrolled_gauss_newton", "pieces"), run.scores("source_refined")
    source = run.scores("source")
    assert [s.method for s in (exact, smoothed, refined)] == [
        "unrolled",
        "unrolled_gauss_newton",
        "source_refined",
    ]
    assert correlation(exact.harm, smoothed.harm) > 0.9
    assert correlation(exact.harm, refined.harm) > 0.8
    assert exact.harm is not None
    for scores in (exact, smoothed, refined):
        assert scores.harm is not None
        assert scores.scale == 1.0
        assert scores.harm[:6].mean() > 0 > scores.harm[6:].mean()  # wrong labels harm
        slope = (scores.harm * exact.harm).sum() / exact.harm.square().sum()
        assert 0.5 < slope.item() < 2.0
        torch.testing.assert_close(scores.self_influence, source.self_influence)


def test_unrolled_is_that_of_the_function(tmp_path: Path) -> None:
    run = Recorded(tmp_path)
    direct = unrolled_harm(
        run.model,
        Replay.load(tmp_path / "replay"),
        get_objective("cross_entropy"),
        row_source(run.train),
        run.query,
    )
    found = run.scores("unrolled", "replay")
    torch.testing.assert_close(found.harm, direct.harm, rtol=0, atol=0)
    assert found.growth == direct.growth


def test_chaotic_training_falls_back_to_source_and_says_so(tmp_path: Path) -> None:
    run = Recorded(tmp_path, lr=5.0)
    with pytest.warns(UserWarning, match=r"chaotic.*harm is SOURCE's"):
        found = run.scores("unrolled", "replay")
    assert found.method == "source"
    assert found.growth is not None
    assert found.growth > 10
    torch.testing.assert_close(found.harm, run.scores("source", calibrate=True).harm)


@pytest.mark.parametrize("tolerance", [0.0, 0.02])
def test_refined_queries_apart_are_solved_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerance: float
) -> None:
    run = Recorded(tmp_path)
    two_queries = 2 * 8 * sum(parameter.numel() for parameter in run.model.parameters())
    monkeypatch.setattr("pipeline.attribution.queries.gradients.DENSE_BYTES", two_queries)
    inputs, labels = run.query[0]
    settings = RefinedSettings(rows=30, scale_rows=30, iterations=4)
    run.query = [(inputs[:3], labels[:3])]
    apart = run.scores(
        "source_refined", reduce_queries=False, refined=settings, query_tolerance=tolerance
    ).influence
    assert apart is not None
    for place in range(3):
        run.query = [(inputs[place : place + 1], labels[place : place + 1])]
        alone = run.scores("source_refined", refined=settings).harm
        assert alone is not None
        largest = float(alone.abs().max())
        torch.testing.assert_close(apart[place], -alone, rtol=1e-5, atol=largest * (1e-5 + 2 * tolerance))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    run = Recorded(tmp_path)
    with pytest.raises(AttributionError, match=r"needs a recording.*ReplayRecorder"):
        run.scores("unrolled")
    with pytest.raises(AttributionError, match="mean query loss"):
        run.scores("unrolled", "replay", reduce_queries=False)
    with pytest.raises(AttributionError, match="at least one row"):
        RefinedSettings(rows=0)
    run.train = run.train[:2]
    with pytest.raises(AttributionError, match="Training had 60 rows, but 50 are given"):
        run.scores("unrolled", "replay")
