"""The stage `verify`: retrains with and without the flagged rows and compares the models on the holdout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Verification
from pipeline.data.encoded import EncodedData
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import write_json
from pipeline.text import words
from pipeline.text.arms import AS_GIVEN, MIXED, RANDOM_OF
from pipeline.training.main_run import role_labels
from pipeline.verification.arms import Decisions, distinct_arms, read_decisions
from pipeline.verification.choice import choose
from pipeline.verification.cross_fitting import both_evidences
from pipeline.verification.fidelity import BY_GROUPS, calibration, measure_fidelity
from pipeline.verification.forecast import BY_ALPHA, UNCALIBRATED, run_forecast
from pipeline.verification.groups import effects_on_groups
from pipeline.verification.judgement import Retrained, judge
from pipeline.verification.measures import Evidence, read_evidence
from pipeline.verification.results import ArmResult, read_results
from pipeline.verification.retrain import retrain, retraining_path, run_missing
from pipeline.verification.same_order import measure_same_order
from pipeline.verification.sources import judge_sources
from pipeline.verification.triggers import before_and_after
from pipeline.verification.unrolled import compare_with_unrolled, judge_by_groups
from pipeline.workers.worker import run_data

CANARIES = "Labels were flipped on purpose in this run (detection.canaries); a retraining would say nothing."


def verify(context: AuditContext) -> dict[str, Any]:
    """Retrain all arms on the workers and write verification.json.

    Returns:
        The facts of the stage for the run's record.
    """
    path, config = context.run.path, context.config.verification
    data, decisions = run_data(path), read_decisions(path)
    report: dict[str, Any] = {
        "metric": data.encoding.target.metric,
        "higher_is_better": True,
        "verdict": "not tested",
        "exported": None,
        "decided_by": None,
        "arms": {},
        "differences": {},
        "measures": {},
        "calibrated_by": UNCALIBRATED if context.run.facts("factors")["alpha"] is None else BY_ALPHA,
        "measured_loss_change": None,
        "backdoors": [],
        "groups": [],
        "fidelity": None,
        "unrolled": compare_with_unrolled(context),
    }
    canaries = context.config.detection.canaries
    note = CANARIES if canaries else _reason_not_to_test(config, data, decisions)
    arm, results, trained = MIXED, {}, 0
    seconds = None
    if note is not None:
        report["note"] = note
    else:
        found, evidence = _retrain_all(context, decisions)
        arm, results = found.choice.arm, found.named()
        trained = sum(len(result.scores) for result in found.results.values())
        seconds = sum(result.seconds for result in found.results.values()) / len(found.results)
        report |= judge(found, evidence)
        report["backdoors"] = before_and_after(path, results["as_given"], results["cleaned"])
    report["predicted_loss_change"] = run_forecast(path, decisions, arm)
    report["sources"] = judge_sources(context, context.run.facts("detect").get("sources") or [])
    report["groups"] = effects_on_groups(path, decisions, arm, results)
    if not canaries:
        report["fidelity"] = measure_fidelity(context, config.fidelity_groups(bool(decisions.flagged.any())))
        if report["fidelity"] and config.same_order:
            report["fidelity"]["same_order"] = measure_same_order(context, report["fidelity"])
        if report["fidelity"] and report["unrolled"]:
            judge_by_groups(path, report["unrolled"], report["fidelity"], config.seed)
        calibrate(report)
    write_json(context.run / "verification.json", report)
    return {
        "retrainings": trained,
        "seconds_per_training": seconds,
        "verdict": report["verdict"],
        "fidelity_retrainings": fidelity_retrainings(report["fidelity"]),
    }


def calibrate(report: dict[str, Any]) -> None:
    """Multiply all forecasts by the slope of fidelity, if the slope is well determined."""
    factor = calibration(report["fidelity"])
    if factor is None:
        return
    report["calibrated_by"] = BY_GROUPS
    for forecast in (report, *report["groups"]):
        if forecast["predicted_loss_change"] is not None:
            forecast["predicted_loss_change"] *= factor


def fidelity_retrainings(found: dict[str, Any] | None) -> int:
    """How many retrainings an entry of fidelity rests on."""
    if found is None:
        return 0
    return int(found["groups"] + found["controls"]) + found.get("same_order", {}).get("retrainings", 0)


def _reason_not_to_test(config: Verification, data: EncodedData, decisions: Decisions) -> str | None:
    """Why nothing can be verified, in a sentence; None if verification is possible."""
    if config.seeds == 0:
        return "Verification is off (verification.seeds is 0)."
    if not decisions.flagged.any():
        return "Nothing was to be removed or relabelled."
    if not distinct_arms(decisions, config.arms):
        return "Every row was to be removed: nothing is left to train on."
    rows = data.count("holdout")
    if rows < 2:
        return (
            f"The holdout set has {words.rows(rows)}, and only rows that training never saw can prove a gain."
        )
    if data.encoding.task == "regression" and len(role_labels(data, "holdout").unique()) == 1:
        return "All holdout targets are equal, which leaves R² undefined."
    return None


def _retrain_all(context: AuditContext, decisions: Decisions) -> tuple[Retrained, Evidence]:
    """Retrain `as_given` and all arms, choose the best arm, and retrain the controls.

    Returns:
        The retrainings, and what is known about the labels of the rows that measure them.
    """
    path, config = context.run.path, context.config.verification
    seeds = range(config.seed, config.seed + config.seeds)
    arms = [AS_GIVEN, *distinct_arms(decisions, config.arms)]
    _retrain_missing(context, arms, seeds, more=1)
    results = {arm: _results_of(path, arm, seeds) for arm in arms}
    validation = read_evidence(path, "validation") if run_data(path).count("validation") else None
    holdout = read_evidence(path, "holdout")
    choice = choose(results, validation, holdout, config.seed)
    measured = {choice.arm} if choice.crossed is None else {choice.arm, *choice.crossed.values()}
    controls = [RANDOM_OF + arm for arm in arms if arm in measured]
    _retrain_missing(context, controls, seeds, before=len(arms))
    found = Retrained(results | {name: _results_of(path, name, seeds) for name in controls}, choice)
    if choice.crossed is None or validation is None:
        return found, holdout
    return found, both_evidences(validation, holdout)


def _retrain_missing(
    context: AuditContext, arms: Sequence[str], seeds: range, before: int = 0, more: int = 0
) -> None:
    """Retrain the arms with every seed, unless the results exist; all arms of one seed come before the next seed.

    Args:
        context: of the audit.
        arms: their names.
        seeds: of the retrainings.
        before: how many arms were retrained before these, for the progress.
        more: how many arms will be retrained after these, for the progress.
    """
    tasks = [(context.run.path, arm, seed) for seed in seeds for arm in arms]
    names = [f"retraining {arm}, seed {seed}" for _, arm, seed in tasks]
    extra = before * len(seeds), more * len(seeds)
    run_missing(context, "verify", retrain, tasks, retraining_path, names, extra)


def _results_of(path: Path, arm: str, seeds: range) -> ArmResult:
    return read_results([retraining_path(path, arm, seed) for seed in seeds])
