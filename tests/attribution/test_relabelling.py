"""Other labels for training rows: against exact unrolling, retraining and the sums that define them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import AttributionError, Trajectory, TrajectoryRecorder, attribute

from . import recorded_run
from .recorded_run import CLASSES, ROWS, mlp
from .unrolling import LinearRun, StageSpec, correlation, regression_rows, relative_error

LINEAR = regression_rows(24, 0)
OTHERS = LINEAR[1].flip(0)
SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW


class Run(recorded_run.Run):
    """Recorded for SOURCE."""

    def recorder(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path
    ) -> Callable[[Tensor], None]:
        recorder = TrajectoryRecorder(
            model, optimizer, directory, steps=self.steps, train_rows=ROWS, tail=self.tail
        )
        return lambda _rows: recorder.step()


def linear_run(directory: Path, steps: int, optimizer: type = SGD) -> LinearRun:
    options = {"lr": 0.3 / steps} | ({"momentum": 0.5} if optimizer is SGD else {"betas": (0.5, 0.9)})
    return LinearRun(directory, LINEAR, [StageSpec(range(24), steps, steps, optimizer, options)])


@pytest.mark.parametrize("optimizer", [SGD, ADAMW])
def test_one_segment_per_step_converges_to_exact_unrolling(tmp_path: Path, optimizer: type) -> None:
    errors = []
    for place, steps in enumerate((30, 90)):
        run = linear_run(tmp_path / str(place), steps, optimizer)
        found = run.scores(segments=steps, relabel=OTHERS).relabel_effect
        errors.append(relative_error(found, run.unrolled_relabelling(OTHERS)))
    assert errors[1] < 0.04
    assert errors[1] < 0.6 * errors[0]


def test_retraining_with_one_label_changed_gives_the_forecast(tmp_path: Path) -> None:
    """In nats, for all rows; a small change of the label keeps the training in the derivative's reach."""
    run = linear_run(tmp_path, 60)
    others = LINEAR[1] + 0.2 * (OTHERS - LINEAR[1])
    found = run.scores(segments=60, relabel=others).relabel_effect
    measured = torch.stack([run.retrained_relabelling(others, row) for row in range(24)])
    assert relative_error(found, measured) < 0.06
    one_segment = run.scores(segments=1, relabel=others).relabel_effect
    assert correlation(one_segment, measured) > 0.98


def test_retraining_a_classifier_ranks_new_labels_as_forecast(tmp_path: Path) -> None:
    run = Run(mlp, "momentum", steps=60)
    run.train(tmp_path)
    others = (run.labels + 1) % CLASSES
    found = attribute(
        run.model(), Trajectory.load(tmp_path), run.pairs, run.query, fisher="exact", relabel=others
    ).relabel_effect
    before, measured = run.query_loss(), []
    for row in range(ROWS):
        given = run.labels.clone()
        run.labels[row] = others[row]
        measured.append(run.query_loss() - before)
        run.labels[row] = given[row]
    assert correlation(found, torch.tensor(measured, dtype=torch.float64)) > 0.8


@pytest.mark.parametrize("method", ["source", "fast_source", "influence", "source_refined", "tracin"])
def test_its_own_label_changes_nothing_and_another_is_the_difference_of_harms(
    tmp_path: Path, method: str
) -> None:
    run = Run(mlp, "momentum")
    run.train(tmp_path)
    given, trajectory = run.labels, Trajectory.load(tmp_path)
    others = given.clone()
    others[:5] = (given[:5] + 1) % CLASSES
    found = attribute(
        run.model(), trajectory, run.pairs, run.query, fisher="exact", method=method, relabel=others
    )
    assert (found.relabel_effect[5:] == 0).all()
    assert (found.relabel_effect[:5] != 0).all()
    # Exact curvature doesn't depend on the given labels: the other labels' harm is that of a file with them.
    changed = [(run.inputs[:7], others[:7]), (run.inputs[7:], others[7:])]
    plain = attribute(run.model(), trajectory, changed, run.query, fisher="exact", method=method)
    torch.testing.assert_close(found.relabel_effect, plain.harm - found.harm, rtol=1e-6, atol=1e-12)


def test_calibration_scales_new_labels_as_it_scales_harm(tmp_path: Path) -> None:
    run = Run(mlp, "momentum")
    run.train(tmp_path)
    others = (run.labels + 1) % CLASSES
    plain, scaled = (
        attribute(
            run.model(),
            Trajectory.load(tmp_path),
            run.pairs,
            run.query,
            fisher="exact",
            calibrate=calibrate,
            relabel=others,
        )
        for calibrate in (False, True)
    )
    torch.testing.assert_close(scaled.relabel_effect, plain.relabel_effect * scaled.scale)


def test_new_labels_without_use_or_of_another_shape_are_refused(tmp_path: Path) -> None:
    run = Run(mlp, "momentum")
    run.train(tmp_path)
    given = (run.model(), Trajectory.load(tmp_path), run.pairs)
    with pytest.raises(AttributionError, match="without the mean query loss"):
        attribute(*given, relabel=run.labels)
    with pytest.raises(AttributionError, match="relabel has the shape"):
        attribute(*given, run.query, relabel=run.labels[:3])
    with pytest.raises(AttributionError, match="relabel has no effect with method='trak'"):
        attribute(*given, run.query, method="trak", relabel=run.labels)
