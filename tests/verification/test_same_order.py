"""Fidelity in the same order on the digits sample, against the main training written out here with weights of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from digits_run import digits_config, run_stages
from safetensors.numpy import load_file
from torch import nn
from torch.nn import functional

from pipeline.config import AuditConfig
from pipeline.errors import InputError
from pipeline.report.fidelity import fidelity_line, same_order_sentence
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, read_json, write_text
from pipeline.training.batches import Selection, TrainingRows
from pipeline.training.replayed import check_same_order
from pipeline.training.setup import deterministic
from pipeline.verification.fidelity import removed_group
from pipeline.verification.same_order import compare_same_order
from pipeline.verification.stage import verify
from pipeline.verification.unrolled import harm_path, judgement
from pipeline.workers.worker import run_data, run_model

from .small_run import InlineWorkers

GROUPS = 5
SETTINGS: dict[str, Any] = {
    "training__epochs": 4,
    "training__batch_size": 70,  # the last batch is smaller
    "training__class_weights": "balanced",
    "model__hidden": [8],
    "detection__backdoors": False,
    "detection__halves": False,
    "verification__arms": ["removed"],
    "verification__fidelity": GROUPS,
    "verification__same_order": True,
    "verification__unrolled": True,
}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> AuditContext:
    config = digits_config(**SETTINGS)
    path = tmp_path_factory.mktemp("same-order")
    context = AuditContext(config, RunDirectory(path), InlineWorkers(config.compute))
    write_text(path / "config.yaml", config.to_yaml())
    run_stages(context, "detect")
    verify(context)
    return context


def by_hand(context: AuditContext, removed: np.ndarray) -> float:
    """The mean validation loss at the tail average after the main training with the weight 0 for the removed rows."""
    path, training = context.run.path, context.config.training
    data = run_data(path)
    rows, validation = data.load_role("train"), data.load_role("validation")
    weights = (len(rows) / (10 * torch.bincount(rows.labels).double())).float()[rows.labels]
    weights[torch.from_numpy(removed)] = 0
    size, count = training.batch_size, len(rows)
    with deterministic():
        model = run_model(path, training.seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=training.learning_rate, momentum=training.momentum)
        iterates = []
        for epoch in range(training.epochs):
            generator = torch.Generator().manual_seed(training.seed * 1_000_003 + epoch)
            for chosen in torch.randperm(count, generator=generator).split(size):
                losses = functional.cross_entropy(
                    model(rows.inputs[chosen]), rows.labels[chosen], reduction="none"
                )
                optimizer.zero_grad()
                ((losses * weights[chosen]).sum() / size).backward()
                optimizer.step()
                iterates.append({name: value.clone() for name, value in model.state_dict().items()})
        last = iterates[-round(training.tail * len(iterates)) :]
        model.load_state_dict({name: torch.stack([each[name] for each in last]).mean(0) for name in last[0]})
        with torch.no_grad():
            return float(functional.cross_entropy(model(validation.inputs), validation.labels))


def test_only_the_weights_of_the_removed_rows_change(audited: AuditContext) -> None:
    found = read_json(audited.run / "verification.json")["fidelity"]["same_order"]
    rows = run_data(audited.run.path).count("train")
    start = by_hand(audited, np.zeros(rows, dtype=bool))
    for group in (0, 3):
        expected = by_hand(audited, removed_group(rows, group, 1)) - start
        assert found["measured"][group] == pytest.approx(expected, abs=2e-6)
    assert found["retrainings"] == GROUPS + 1


def test_the_forecast_is_the_plain_sum_and_all_retrainings_are_counted(audited: AuditContext) -> None:
    found = read_json(audited.run / "verification.json")["fidelity"]["same_order"]
    harm = pq.read_table(audited.run / "rows.parquet")["validation_harm"].to_numpy()
    expected = [-harm[removed_group(len(harm), group, 1)].sum() for group in range(GROUPS)]
    assert found["predicted"] == pytest.approx(expected)
    assert audited.run.path.joinpath("fidelity/groups/same-order-all.safetensors").exists()


def test_verification_counts_the_retrainings_of_both_truths(audited: AuditContext) -> None:
    fidelity = read_json(audited.run / "verification.json")["fidelity"]
    assert verify(audited)["fidelity_retrainings"] == GROUPS + fidelity["controls"] + GROUPS + 1


def test_the_groups_judge_the_exact_derivative_too(audited: AuditContext) -> None:
    report = read_json(audited.run / "verification.json")
    exact, fidelity = report["unrolled"], report["fidelity"]
    harm = load_file(harm_path(audited.run.path))["harm"]
    predicted = [-harm[removed_group(len(harm), group, 1)].sum() for group in range(GROUPS)]
    for found, measured in ((exact["fidelity"], fidelity), (exact["same_order"], fidelity["same_order"])):
        assert found["value"] == pytest.approx(np.corrcoef(predicted, measured["measured"])[0, 1])
    lead = exact["fidelity"]["value"] - fidelity["correlation"]["value"]
    assert exact["ahead"]["value"] == pytest.approx(lead)
    assert exact["same_order"]["value"] > 0.9  # so short a training is nearly linear in its rows


def simulated(noise: float, error: float, groups: int = 4000) -> dict[str, Any]:
    """Effects of variance 1, scores that miss with a variance, and noise that the same order does not have."""
    random = np.random.RandomState(0)
    effects = random.standard_normal(groups)
    predicted = effects + error**0.5 * random.standard_normal(groups)
    across = effects + noise**0.5 * random.standard_normal(groups)
    fidelity = {"measured": across, "correlation": {"value": np.corrcoef(predicted, across)[0, 1]}}
    return compare_same_order(predicted, effects, fidelity)


def test_noise_of_training_is_told_from_errors_of_the_scores() -> None:
    only_noise, only_error, both = simulated(1.0, 0.0), simulated(0.0, 1.0), simulated(1.0, 1.0)
    assert only_noise["noise_of_infidelity"]["value"] == pytest.approx(1.0)
    assert only_error["noise_of_infidelity"]["value"] == 0.0
    # r² is 1/4 across seeds and 1/2 in the same order: a quarter of the variance of the unexplained three
    share = both["noise_of_infidelity"]
    assert share["value"] == pytest.approx(1 / 3, abs=0.03)
    assert share["low"] < 1 / 3 < share["high"]
    assert both["across"]["value"] == pytest.approx(0.5**0.5, abs=0.03)


def test_a_derivative_is_not_trusted_where_retrainings_contradict_it_or_the_scores_do_better() -> None:
    random = np.random.RandomState(1)
    truth, other = random.standard_normal((2, 40))
    good, fair = truth + 0.5 * random.standard_normal(40), truth + 1.5 * random.standard_normal(40)
    assert judgement(good, fair, truth)["trusted"]
    assert not judgement(other, other, truth)["trusted"]
    worse = judgement(fair, truth, truth)
    assert worse["ahead"]["high"] < 0
    assert not worse["trusted"]


def test_terminal_and_report_say_both_correlations_and_the_share() -> None:
    one = {"value": 0.5, "low": 0.3, "high": 0.7}
    same = simulated(1.0, 1.0)
    found = {"level": "moderate", "correlation": one, "same_order": same}
    assert "in the same order r 0.7" in fidelity_line(found)
    said = same_order_sentence(found)
    assert "leave 75 % of the variance unexplained" in said
    assert "is noise of training" in said


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"verification.same_order": True, "verification.fidelity": 0}, "`fidelity` is 0"),
        ({"verification.same_order": True, "verification.seeds": 0}, "`seeds` is 0"),
        ({"verification.same_order": True, "training.trajectory": "somewhere"}, "made elsewhere"),
    ],
)
def test_what_can_not_be_repeated_is_refused_by_the_config(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        digits_config(verification__fidelity=GROUPS).with_changes(changes)


def test_batch_norm_is_refused_before_a_training_is_spent() -> None:
    config: AuditConfig = digits_config(verification__fidelity=GROUPS, verification__same_order=True)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(InputError, match=r"verification\.same_order.*BatchNorm"):
        check_same_order(config, model)
    check_same_order(config, nn.Linear(2, 2))


def test_rows_without_weight_keep_their_places(audited: AuditContext) -> None:
    data = run_data(audited.run.path)
    out = removed_group(data.count("train"), 0, 1)
    for budget in (2**30, 1):  # held, streamed
        plain, muted = (
            TrainingRows(data, selection, budget, 500)
            for selection in (Selection(), Selection(weightless=out))
        )
        for one, other in zip(plain.batches(64, 3, 0), muted.batches(64, 3, 0), strict=True):
            assert torch.equal(one.inputs, other.inputs)
            assert other.weights is not None
        total = sum(float(each.weights.sum()) for each in muted.batches(64, 3, 0))
        assert total == (~out).sum()
