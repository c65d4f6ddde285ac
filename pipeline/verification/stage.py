"""The stage `verify`: retrain with and without the flagged rows and compare on the holdout."""

from __future__ import annotations

from typing import Any

from pipeline.compute.worker import run_data
from pipeline.config import Verification
from pipeline.context import AuditContext
from pipeline.data.encoded import EncodedData
from pipeline.report import words
from pipeline.run import write_json
from pipeline.training.main_run import METRICS, role_labels
from pipeline.verification.arms import Decisions, read_decisions
from pipeline.verification.fidelity import BY_GROUPS, calibration, measure_fidelity
from pipeline.verification.forecast import BY_ALPHA, UNCALIBRATED, run_forecast
from pipeline.verification.groups import effects_on_groups
from pipeline.verification.results import ArmResult, compare, read_results
from pipeline.verification.retrain import retrain, retraining_path, run_missing
from pipeline.verification.statistics import seed_interval, verdict
from pipeline.verification.triggers import before_and_after
from pipeline.verification.unrolled import compare_with_unrolled

COMPARISONS = (
    ("cleaned", "as_given"),
    ("cleaned", "random_removal"),
    ("relabelled", "as_given"),
    ("relabelled", "cleaned"),
)

CANARIES = "Labels were flipped on purpose in this run (detection.canaries); a retraining would say nothing."


def verify(context: AuditContext) -> dict[str, Any]:
    """Retrain all arms on the workers and write verification.json; returns the facts for the record."""
    path, config = context.run.path, context.config.verification
    data, decisions = run_data(path), read_decisions(path)
    report: dict[str, Any] = {
        "metric": METRICS[data.encoding.task],
        "higher_is_better": True,
        "verdict": "not tested",
        "arms": {},
        "differences": {},
        "predicted_loss_change": run_forecast(path, decisions),
        "calibrated_by": UNCALIBRATED if context.run.facts("factors")["alpha"] is None else BY_ALPHA,
        "measured_loss_change": None,
        "backdoors": [],
        "groups": [],
        "fidelity": None,
        "unrolled": compare_with_unrolled(context),
    }
    canaries = context.config.detection.canaries
    note = CANARIES if canaries else reason_not_to_test(config, data, decisions)
    results: dict[str, ArmResult] = {}
    if note is not None:
        report["note"] = note
    else:
        seeds = range(config.seed, config.seed + config.seeds)
        arms = chosen_arms(config, decisions)
        retrain_all(context, arms, seeds)
        for arm in arms:
            results[arm] = read_results([retraining_path(path, arm, seed) for seed in seeds])
        report |= judge(results)
        report["backdoors"] = before_and_after(path, results["as_given"], results["cleaned"])
    report["groups"] = effects_on_groups(path, decisions, results)
    if not canaries:
        report["fidelity"] = measure_fidelity(context)
        calibrate(report)
    write_json(context.run / "verification.json", report)
    return {
        "retrainings": sum(len(result.scores) for result in results.values()),
        "seconds_per_training": mean_seconds(list(results.values())),
        "verdict": report["verdict"],
        "fidelity_retrainings": sum(report["fidelity"][each] for each in ("groups", "controls"))
        if report["fidelity"]
        else 0,
    }


def calibrate(report: dict[str, Any]) -> None:
    """Scale all forecasts by the slope that random groups gave, where that is well determined."""
    factor = calibration(report["fidelity"])
    if factor is None:
        return
    report["calibrated_by"] = BY_GROUPS
    for forecast in (report, *report["groups"]):
        if forecast["predicted_loss_change"] is not None:
            forecast["predicted_loss_change"] *= factor


def reason_not_to_test(config: Verification, data: EncodedData, decisions: Decisions) -> str | None:
    """Why there is nothing to verify, in a sentence; None when there is something."""
    if config.seeds == 0:
        return "Verification is off (verification.seeds is 0)."
    if not (decisions.removed | decisions.relabelled).any():
        return "Nothing was to be removed or relabelled."
    if decisions.removed.all():
        return "Every row was to be removed: nothing is left to train on."
    rows = data.count("holdout")
    if rows < 2:
        return (
            f"The holdout set has {words.rows(rows)}, and only rows that training never saw can prove a gain."
        )
    if data.encoding.task == "regression" and len(role_labels(data, "holdout").unique()) == 1:
        return "All holdout targets are equal, which leaves R² undefined."
    return None


def chosen_arms(config: Verification, decisions: Decisions) -> list[str]:
    arms = ["as_given", "cleaned", "random_removal"]
    return [*arms, "relabelled"] if config.relabelled and decisions.rescued.any() else arms


def retrain_all(context: AuditContext, arms: list[str], seeds: range) -> None:
    """All arms of the first seed, then of the next; what is on disk already is counted as done."""
    tasks = [(context.run.path, arm, seed) for seed in seeds for arm in arms]
    names = [f"retraining {arm}, seed {seed}" for _, arm, seed in tasks]
    run_missing(context, "verify", retrain, tasks, retraining_path, names)


def judge(results: dict[str, ArmResult]) -> dict[str, Any]:
    """The part of verification.json that follows from the retrainings."""
    pairs = [(arm, other) for arm, other in COMPARISONS if arm in results]
    differences = {f"{arm} - {other}": compare(results[arm], results[other]) for arm, other in pairs}
    cleaned, given = results["cleaned"].validation_losses, results["as_given"].validation_losses
    measured = None if cleaned is None or given is None else seed_interval(cleaned - given).as_json()
    return {
        "verdict": verdict(differences, higher_is_better=True),
        "arms": {arm: result.as_json() for arm, result in results.items()},
        "differences": differences,
        "measured_loss_change": measured,
    }


def mean_seconds(results: list[ArmResult]) -> float | None:
    return sum(result.seconds for result in results) / len(results) if results else None
