"""The front door of `winnow lds`: retrains on random subsets and compares them with every method.

A removal curve shows the validation loss without the rows that a method finds most harmful.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from pipeline.attribution.methods import METHODS
from pipeline.config import AuditConfig, load_config
from pipeline.errors import InputError
from pipeline.faithfulness.page import lds_page
from pipeline.faithfulness.tasks import PIECES, RANDOM, FaithfulnessWork, retrain_curve, retrain_mask, score
from pipeline.runs.context import AuditContext, Progress, silent
from pipeline.runs.directory import RUNS, existing_run, write_json, write_text
from pipeline.runs.settled import settled
from pipeline.scoring.refine import refined_settings
from pipeline.stages.opening import open_run
from pipeline.stages.stages import STAGES, fingerprints, run_stage
from pipeline.text import words
from pipeline.training.main_run import whole_trajectory
from pipeline.verification.fidelity import keep_only_current
from pipeline.verification.lds import Estimate, ceiling, lds_score, predicted_change, slope
from pipeline.verification.retrain import run_missing
from pipeline.workers.cluster import Workers
from pipeline.workers.worker import run_data

DEFAULT_METHODS = ("source", "influence", "tracin", "graddot")
SHARES = (0.02, 0.05, 0.1, 0.2)
"""The shares of rows that the removal curve removes."""
FEWEST_MASKS = 5
KEPT_PER_OUTPUT = 2
"""A subset must keep so many rows for each output of the model (a class, a label or a target)."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class FaithfulnessPlan:
    """What is measured.

    Attributes:
        methods: of attribution.
        masks: how many random subsets there are.
        retrainings: how often the model is retrained on each subset.
        removed: the share of rows that a mask removes.
        queries: how many single validation rows are queries.
    """

    methods: Sequence[str] = DEFAULT_METHODS
    masks: int = 50
    retrainings: int = 2
    removed: float = 0.5
    queries: int = 50

    def check(self) -> None:
        """Check the values.

        Raises:
            InputError: a value is out of range, or a method is unknown or named twice.
        """
        known = [name for name, method in METHODS.items() if method.recorder is None]
        for name in self.methods:
            if name not in known:
                raise InputError(f"--methods: {name!r} isn't known", f"Choose of {', '.join(known)}.")
        if not self.methods:
            raise InputError("--methods: none is named", f"Choose of {', '.join(known)}.")
        twice = [name for place, name in enumerate(self.methods) if name in self.methods[:place]]
        if twice:
            raise InputError(f"--methods: {twice[0]!r} is named twice", "Name each once.")
        if self.masks < FEWEST_MASKS:
            raise InputError(
                f"--masks is {self.masks}, too few for a rank correlation",
                f"Ask for {FEWEST_MASKS} at least; 50 give an interval of about ± 0.1.",
            )
        for option, number in (("--retrainings", self.retrainings), ("--queries", self.queries)):
            if number < 1:
                raise InputError(f"{option} is {number}", "Ask for 1 at least.")
        if not 0 < self.removed < 1:
            raise InputError(
                f"--removed is {self.removed:g}, not a share between 0 and 1", "Write 0.5 or 0.1."
            )


def lds(
    source: AuditConfig | str | Path,
    plan: FaithfulnessPlan = FaithfulnessPlan(),
    output: str | Path | None = None,
    progress: Progress = silent,
    say: Say = lambda text: None,
) -> tuple[dict[str, Any], Path]:
    """Measure how well methods of attribution predict retrainings, and write lds.json and lds.html.

    After an interruption, the same call resumes; finished retrainings are kept.

    Args:
        source: a config, whose model is trained first, or a run directory.
        plan: what is measured.
        output: the folder for the results; None takes `lds` in the run directory, or `runs/<name>/lds` for a config.
        progress: called while retrainings run.
        say: called with a sentence about how long the measurement will take, before it begins.

    Returns:
        The content of lds.json, and the folder.

    Raises:
        InputError: the plan is wrong or can't be measured on this data, for example without validation rows.
    """
    plan.check()
    with _opened(source, plan, output, progress) as (context, folder):
        validation_rows = run_data(context.run.path).count("validation")
        if plan.queries > validation_rows:
            say(
                f"--queries is {words.count(plan.queries)}, and there are {words.count(validation_rows)} validation "
                "rows: all of them are asked about."
            )
        queries = min(plan.queries, validation_rows)
        work = FaithfulnessWork(context.run.path.absolute(), folder.absolute(), plan.removed, queries)
        keep_only_current(folder, PIECES, context.run)
        found = measure(context, work, plan, say)
        write_json(folder / "lds.json", found)
        write_text(folder / "lds.html", lds_page(found, context.config.name))
    return found, folder


@contextmanager
def _opened(
    source: AuditConfig | str | Path, plan: FaithfulnessPlan, output: str | Path | None, progress: Progress
) -> Iterator[tuple[AuditContext, Path]]:
    """Open a run with a trained model whose data fits the plan; yields its context and the folder for the results."""
    if not isinstance(source, AuditConfig) and Path(source).is_dir():
        run = existing_run(source, "train")
        config = settled(load_config(run / "config.yaml"), run.path)
        for needed in (whole_trajectory(run.path) / "trajectory.json", run / "encoding.json"):
            if not needed.exists():
                raise InputError(
                    f"{needed}: missing from the run", "Give a config instead; its model is trained first."
                )
        run.check_stages("prepare", "train")
        folder = Path(output) if output is not None else run / "lds"
        with run.lock() as lock, Workers(config.compute, lock) as workers:
            context = AuditContext(config, run, workers, progress)
            _check_data(context, plan)
            yield context, folder
        return
    config = source if isinstance(source, AuditConfig) else load_config(source)
    folder = Path(output) if output is not None else RUNS / config.name / "lds"
    with open_run(config, folder / "run", progress) as context:
        expected, (prepare, train) = fingerprints(config), STAGES[:2]
        run_stage(prepare, context, expected[prepare.name])
        _check_data(context, plan)
        run_stage(train, context, expected[train.name])
        yield replace(context, config=settled(config, context.run.path)), folder


def _check_data(context: AuditContext, plan: FaithfulnessPlan) -> None:
    """Check that the plan can be measured on the data.

    Raises:
        InputError: there are too few validation rows or kept rows, or rows have weights.
    """
    data, config = run_data(context.run.path), context.config
    if data.count("validation") < 2:
        raise InputError(
            "there are no validation rows whose loss could be measured",
            "Give data.validation, or data.split.",
        )
    if config.data.weight is not None or config.training.class_weights != "none":
        raise InputError(
            "rows have weights, which `winnow lds` doesn't consider",
            "Leave out data.weight and training.class_weights: --set training.class_weights=none.",
        )
    rows, needed = data.count("train"), KEPT_PER_OUTPUT * data.encoding.outputs
    removed = round(plan.removed * rows)
    if removed < 1 or rows - removed < needed:
        raise InputError(
            f"--removed is {plan.removed:g}, which removes {words.count(removed)} of {words.rows(rows)} and keeps "
            f"{words.count(rows - removed)}",
            f"Remove 1 at least, and keep {needed:,}: {KEPT_PER_OUTPUT} for each output of the model.",
        )


def measure(
    context: AuditContext, work: FaithfulnessWork, plan: FaithfulnessPlan, say: Say
) -> dict[str, Any]:
    """Make all retrainings and scores; returns the content of lds.json."""
    masks = [(work, mask, seed) for seed in range(plan.retrainings) for mask in range(plan.masks)]
    names = [f"retraining without mask {mask}, seed {seed}" for _, mask, seed in masks]
    curve = _curve_tasks(work, plan)
    run_missing(context, "lds: a timed training", retrain_mask, masks[:1], _mask_path, names)
    _announce(context, masks, curve, say)
    _score_all(context, work, plan)
    run_missing(context, "lds: random subsets", retrain_mask, masks, _mask_path, names)
    names = [f"retraining without {share:g} by {method}, seed {seed}" for _, method, share, seed in curve]
    run_missing(context, "lds: removal curve", retrain_curve, curve, _curve_path, names)
    truth = np.stack(
        [
            np.stack([_read_losses(_mask_path(work, mask, seed)) for seed in range(plan.retrainings)])
            for mask in range(plan.masks)
        ]
    )
    removed = np.stack([work.removed_rows(mask) for mask in range(plan.masks)])
    data = run_data(work.run_path)
    return {
        "run": str(context.run.path),
        "rows": data.count("train"),
        "validation_rows": data.count("validation"),
        "masks": plan.masks,
        "retrainings": plan.retrainings,
        "removed": plan.removed,
        "queries": len(work.query_rows()),
        "refined": asdict(refined_settings(context.config.attribution).within(data.count("train")))
        if any(METHODS[name].refined for name in plan.methods)
        else None,
        "seconds_per_training": _seconds_of(_mask_path(*masks[0])),
        "unit": data.encoding.target.unit,
        "mean_loss": judged(work, plan, truth.mean(2, keepdims=True), removed, single=False),
        "single_losses": judged(work, plan, truth[:, :, work.query_rows()], removed, single=True),
        "curve": _read_curve(work, plan),
    }


def judged(
    work: FaithfulnessWork, plan: FaithfulnessPlan, truth: np.ndarray, removed: np.ndarray, single: bool
) -> dict[str, Any]:
    """The ceiling, and the LDS and slope of each method, for lds.json.

    Args:
        work: paths of the scores.
        plan: what is measured.
        truth: measured losses, float `[masks, retrainings, queries]`.
        removed: bool `[masks, rows]`.
        single: whether the queries are single rows; else the mean loss is the only query.
    """
    best = ceiling(truth)
    methods = {}
    for method in plan.methods:
        predicted = predicted_change(work.scores(method, single), removed)
        figures: dict[str, Estimate] = {
            "lds": lds_score(truth.mean(1), predicted),
            "slope": slope(truth.mean(1), predicted),
        }
        methods[method] = {name: figure.as_json() for name, figure in figures.items()}
    return {"ceiling": None if best is None else best.as_json(), "methods": methods}


def _score_all(context: AuditContext, work: FaithfulnessWork, plan: FaithfulnessPlan) -> None:
    tasks = [(work, method, single) for method in plan.methods for single in (False, True)]
    waiting = [task for task in tasks if not work.scores_path(*task[1:]).exists()]

    def show(place: int, _: object) -> None:
        context.progress("lds: scores", place + 1, len(waiting), "methods")

    context.workers.run(score, waiting, [f"scores of {method}" for _, method, _ in waiting], show)


def _curve_tasks(
    work: FaithfulnessWork, plan: FaithfulnessPlan
) -> list[tuple[FaithfulnessWork, str, float, int]]:
    """The points of the removal curve: no rows removed, and every share by every method and at random."""
    points = [(RANDOM, 0.0)] + [(method, share) for method in (*plan.methods, RANDOM) for share in SHARES]
    return [(work, method, share, seed) for seed in range(plan.retrainings) for method, share in points]


def _announce(context: AuditContext, masks: Sequence[Any], curve: Sequence[Any], say: Say) -> None:
    """Say how many retrainings are left and how long they will take, by the time of the first one."""
    left = sum(not _mask_path(*task).exists() for task in masks)
    left += sum(not _curve_path(*task).exists() for task in curve)
    workers, each = context.workers.count(), _seconds_of(_mask_path(*masks[0]))
    say(
        f"{words.plural(left, 'retraining')} of about {words.duration(each)} on {words.plural(workers, 'worker')}: "
        f"about {words.duration(left * each / workers)}, and the scores. If interrupted, the same command resumes."
    )


def _read_curve(work: FaithfulnessWork, plan: FaithfulnessPlan) -> dict[str, Any]:
    """The removal curve for lds.json: mean validation losses, one per seed, for `as_given` and each method's shares."""

    def losses(method: str, share: float) -> list[float]:
        paths = [work.curve_path(method, share, seed) for seed in range(plan.retrainings)]
        return [float(_read_losses(path).mean()) for path in paths]

    return {
        "as_given": losses(RANDOM, 0.0),
        "methods": {
            method: [{"share": share, "losses": losses(method, share)} for share in SHARES]
            for method in (*plan.methods, RANDOM)
        },
    }


def _mask_path(work: FaithfulnessWork, mask: int, seed: int) -> Path:
    return work.mask_path(mask, seed)


def _curve_path(work: FaithfulnessWork, method: str, share: float, seed: int) -> Path:
    return work.curve_path(method, share, seed)


def _read_losses(path: Path) -> np.ndarray:
    return load_file(path)["loss"].astype(np.float64)


def _seconds_of(path: Path) -> float:
    return float(load_file(path)["seconds"])
