"""Factors and scores do not depend on chunks, workers or batches; a worker's death loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from digits_run import digits_config, run_until
from safetensors.torch import load_file

from pipeline.attribution.curvature.eigenbases import eigenbases
from pipeline.attribution.curvature.factor_sums import FactorSums
from pipeline.attribution.curvature.factors import covariance_sums, eigenvalue_sums
from pipeline.attribution.curvature.segment_functions import source_spectrum
from pipeline.attribution.curvature.segments import PreparedSegment
from pipeline.attribution.objectives import get_objective
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.scores.rows import score_batch
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.data.encoded import EncodedData
from pipeline.runs.directory import RunDirectory
from pipeline.training.main_run import whole_trajectory
from pipeline.workers.worker import run_model

SCORES = ("self_influence", "validation_harm")


def scores(path: Path) -> dict[str, np.ndarray]:
    rows = pq.read_table(path / "rows.parquet")
    return {name: rows[name].to_numpy() for name in SCORES}


def assert_same_scores(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    for name in SCORES:
        np.testing.assert_allclose(
            one[name], two[name], rtol=0, atol=1e-5 * np.abs(one[name]).max(), err_msg=name
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"compute__chunk_rows": 70},
        {"compute__workers": 2, "compute__chunk_rows": 333},
        {"attribution__batch_size": 37},
    ],
    ids=["small chunks", "two workers", "small batches"],
)
def test_scores_do_not_depend_on_how_the_work_is_cut(
    detected_run: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    other = tmp_path / "other"
    run_until(digits_config(**changes), other, "detect")
    assert_same_scores(scores(detected_run), scores(other))
    decisions = [pq.read_table(p / "rows.parquet")["decision"] for p in (detected_run, other)]
    assert decisions[0].equals(decisions[1])


def test_the_stages_agree_with_the_library_used_alone_on_all_rows_at_once(detected_run: Path) -> None:
    """Segments, sums over chunks, the tail query and the sign, all put together by hand."""
    data, objective = EncodedData.open(detected_run), get_objective("cross_entropy")
    trajectory = Trajectory.load(whole_trajectory(detected_run))
    model = run_model(detected_run, 0).double()
    rows, validation = data.load_role("train"), data.load_role("validation")
    cut = trajectory.segments(1)[0]

    def at(checkpoint: int) -> None:
        restore_weights(model, {k: v.double() for k, v in trajectory.load_weights(checkpoint).items()})

    sums = FactorSums({}, {}, 0)
    for checkpoint in cut.checkpoints:
        at(checkpoint)
        sums = sums + covariance_sums(
            model, objective, rows.inputs, rows.row_ids, seed=0, checkpoint=checkpoint
        )
    bases = eigenbases(sums)
    eigenvalues: dict[str, torch.Tensor] = {}
    for checkpoint in cut.checkpoints:
        at(checkpoint)
        for name, value in eigenvalue_sums(
            model, objective, rows.inputs, rows.row_ids, bases, seed=0, checkpoint=checkpoint
        ).items():
            eigenvalues[name] = eigenvalues.get(name, 0) + value / sums.examples
    segment = PreparedSegment(
        cut.checkpoints, bases, eigenvalues, source_spectrum(cut.lr_sum, cut.weight_decay)
    )

    restore_weights(model, {k: v.double() for k, v in trajectory.load_tail().items()})
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(validation.inputs), validation.labels).backward()
    filters = {}
    for name, basis in bases.items():
        module = model.get_submodule(name)
        gradient = torch.cat([module.weight.grad, module.bias.grad[:, None]], 1)
        rotated = basis.gradient.T @ gradient @ basis.input
        filters[name] = (
            basis.gradient @ (segment.spectrum.injection(eigenvalues[name]) * rotated) @ basis.input.T
        )
    batch = Batch(rows.inputs, rows.labels, rows.row_ids)
    expected = score_batch(model, at, objective, batch, [segment], 1200, {"validation": [filters]})
    assert expected.self_influence is not None
    alpha = RunDirectory(detected_run).facts("factors")["alpha"]
    assert 0.01 < alpha < 2
    assert_same_scores(
        {
            "self_influence": expected.self_influence.numpy(),
            "validation_harm": expected.harm["validation"].numpy() * alpha,
        },
        scores(detected_run),
    )


def test_harmful_rows_are_the_wrong_ones_so_the_sign_is_right(detected_run: Path) -> None:
    rows = pq.read_table(detected_run / "rows.parquet").to_pandas()
    truth = pq.read_table("data_samples/digits/truth.parquet").to_pandas()
    wrong = rows["row_key"].map(dict(zip(truth["index"].astype(str), truth["is_wrong"]))).to_numpy()
    assert rows["validation_harm"][wrong].mean() > 0 > rows["validation_harm"][~wrong].mean()


def test_several_segments_give_factors_of_each(tmp_path: Path) -> None:
    run_until(digits_config(attribution__segments=3), tmp_path / "run", "attribute")
    for segment in range(3):
        tensors = load_file(tmp_path / "run/factors" / f"segment-{segment}.safetensors")
        assert {name.split("/")[0] for name in tensors} == {"basis", "eigenvalues"}
    assert not (tmp_path / "run/factors/parts").exists()


def test_a_lost_scores_file_is_made_again_and_no_other(detected_run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (detected_run / "scores").iterdir()}
    content = {p: p.read_bytes() for p in before}
    lost = sorted(before)[0]
    lost.unlink()
    record = detected_run / "record.json"
    text = record.read_text()
    tree = json.loads(text)
    for stage in ("attribute", "detect"):
        del tree["stages"][stage]
    record.write_text(json.dumps(tree))
    run_until(digits_config(), detected_run, "detect")
    assert lost.read_bytes() == content[lost]
    assert all(p.stat().st_mtime_ns == t for p, t in before.items() if p != lost)


def test_rows_are_byte_identical_when_everything_is_done_again(detected_run: Path, tmp_path: Path) -> None:
    run_until(digits_config(), tmp_path / "again", "detect")
    assert (tmp_path / "again/rows.parquet").read_bytes() == (detected_run / "rows.parquet").read_bytes()
