"""From pieces to lines of results, and the targets with what is missing to each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.one_file.configurations import NAMING_NOISES, SEEDS, Configuration
from benchmarks.one_file.measures import Bins, Row, calibration_error
from benchmarks.one_file.noise import DECOY
from benchmarks.one_file.peers import MAIN
from benchmarks.one_file.pieces import AUDIT, CORE, GAINS, NAMING, PEERS, Pieces

PARTS = (NAMING, PEERS, AUDIT, GAINS, CORE)
"""What a later part says counts: a whole audit names a source as well."""
FEATURES = "features"
EASY = 0.9
"""A set is easy where the usual model agrees with so many labels of the clean file."""
SMALL_ERROR = 0.1
"""Precision and recall of what is removed are asked for where judges are wrong about fewer true labels than this."""
TOGETHER = "panel_wrong"
"""Not a judge but all of them."""
CLEAR_GAIN = 0.01
SLACK = 0.01


@dataclass(frozen=True)
class Measured:
    """A configuration and all that its pieces say: (method, metric) -> row, those of the core apart."""

    configuration: Configuration
    values: dict[tuple[str, str], Row]
    core: dict[tuple[str, str], Row]

    def value(self, method: str, metric: str) -> Any:
        found = self.values.get((method, metric))
        return None if found is None else found["value"]

    def of_core(self, method: str, metric: str) -> Any:
        found = self.core.get((method, metric))
        return None if found is None else found["value"]

    @property
    def chosen_arm(self) -> str:
        """The arm that verification chose, proved or not; `removed` where nothing was to choose."""
        return (self.core.get(("winnow", "verification")) or {}).get("exported") or "removed"

    @property
    def main_peer(self) -> str:
        return MAIN[self.configuration.known.kind]

    @property
    def share(self) -> float:
        """Of wrong labels."""
        return self.value("planted", "share") or 0.0

    @property
    def kind(self) -> str:
        return f"{self.configuration.noise}/{self.configuration.rate:g}"

    @property
    def judges_are_good(self) -> bool:
        error = self.value("panel", "error_true")
        error = self.value("winnow", "error_true") if error is None else error
        return error is not None and error < SMALL_ERROR


def measured(configurations: Sequence[Configuration], pieces: Pieces) -> list[Measured]:
    """What is there; a configuration of which nothing is there is left out."""
    found = []
    for each in configurations:
        values, core = {}, {}
        for part in PARTS:
            piece = pieces.read(part, each)
            for row in piece.rows if piece else []:
                (core if part == CORE else values)[row["method"], row["metric"]] = row
        if values or core:
            found.append(Measured(each, values, core))
    return found


def summarise(configurations: Sequence[Configuration], pieces: Pieces) -> list[Row]:
    """All lines of results; prints the targets, what failed and which pieces are of other commits."""
    done = measured(configurations, pieces)
    for part in PARTS:
        planned = [each for each in configurations if _is_planned(part, each)]
        there = sum(pieces.read(part, each) is not None for each in planned)
        print(f"{part}: {there} of {len(planned)} configurations are in")
    stale = [
        f"{part} {each.task}, seed {each.seed}"
        for part in PARTS
        for each in configurations
        if pieces.is_stale(part, each)
    ]
    if stale:
        print(
            f"stale, made by other commits: {len(stale)} ({'; '.join(stale[:5])}{' ...' if stale[5:] else ''})"
        )
    lines = targets(done)
    show(lines)
    for part in PARTS:
        for each in configurations:
            piece = pieces.read(part, each)
            for row in piece.rows if piece else []:
                origin = {"task": each.task, "seed": each.seed, "part": part, "commit": piece.commit}
                stale_too = {"stale": True} if pieces.is_stale(part, each) else {}
                lines.append(rounded(origin | row | stale_too))
    return lines


def _is_planned(part: str, configuration: Configuration) -> bool:
    if part == NAMING:
        return (configuration.noise, configuration.rate) in NAMING_NOISES
    if part == CORE:
        return configuration.is_core
    return configuration.seed < SEEDS and configuration.noise != DECOY


def rounded(row: Row) -> Row:
    """With numbers to six digits, which keeps the file of results small."""
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}


def targets(done: Sequence[Measured]) -> list[Row]:
    """One line per target that something is known about."""
    usual = [each for each in done if each.configuration.seed < SEEDS and each.configuration.noise != DECOY]
    classes = [each for each in usual if not each.configuration.known.regression]
    noisy = [each for each in usual if each.share > 0]
    class_noisy = [each for each in noisy if not each.configuration.known.regression]
    audited = [each for each in class_noisy if each.value("winnow", "noise_estimated") is not None]
    plain = [each for each in audited if each.configuration.noise != FEATURES]
    by_features = [each for each in audited if each.configuration.noise == FEATURES]
    easy = easy_sets(classes)
    clean = [each for each in classes if each.share == 0 and each.configuration.dataset in easy]
    judged = [each for each in class_noisy if each.kind == "uniform/0.1" and each.judges_are_good]
    found = [
        at_most("noise_error", values(plain, "winnow", "noise_error"), 0.03),
        at_most("noise_error, feature-dependent", values(by_features, "winnow", "noise_error"), 0.08),
        at_most("estimates below 1 % of 5 % and more", too_low(audited), 0.0),
        at_most(
            "noise_estimate on clean easy sets, largest", values(clean, "winnow", "noise_estimate"), 0.02, max
        ),
        at_least("noise_estimated", values(audited, "winnow", "noise_estimated"), 0.8),
        at_least("noise_interval_holds", values(audited, "winnow", "noise_interval_holds"), 0.9),
        *leads(noisy, "f1", lambda each: [each.main_peer]),
        *leads(noisy, "average_precision", usual_peers),
        at_least("average_precision over the best single judge", over_judges(noisy), 0.0),
        at_least("average_precision over the judges together, panel_wrong", over_panel(noisy), 0.0),
        at_least(
            "precision of remove", values(judged, "winnow_remove", "precision"), 0.7, min_of_sets(judged)
        ),
        at_least("recall of remove", values(judged, "winnow_remove", "recall"), 0.4, min_of_sets(judged)),
        at_most("calibration_error, mean of sets", calibration_of_sets(class_noisy), 0.05),
        *sources(done),
        *of_core([each for each in usual if each.core]),
        at_most("failed", failures(done), 0.0),
    ]
    return [line for line in found if line is not None]


def values(done: Iterable[Measured], method: str, metric: str) -> list[float]:
    found = (each.value(method, metric) for each in done)
    return [value for value in found if value is not None]


def easy_sets(done: Sequence[Measured]) -> set[str]:
    return {
        each.configuration.dataset
        for each in done
        if each.share == 0 and (each.value(each.main_peer, "accuracy_given") or 0) >= EASY
    }


def too_low(done: Sequence[Measured]) -> list[float]:
    """1 where an estimate is below 1 % although 5 % or more are wrong."""
    return [
        float(each.value("winnow", "noise_estimate") < 0.01)
        for each in done
        if each.share >= 0.045 and each.value("winnow", "noise_estimate") is not None
    ]


def line(metric: str, value: float, target: float, met: bool, count: int, **more: Any) -> Row:
    return {
        "task": "all",
        "method": "winnow",
        "metric": metric,
        "value": value,
        "target": target,
        "met": met,
        "n": count,
    } | more


def mean(found: Sequence[float]) -> float:
    return float(np.mean(found))


def at_most(
    metric: str,
    found: Sequence[float],
    target: float,
    of: Callable[[Sequence[float]], float] = mean,
) -> Row | None:
    if not len(found):
        return None
    value = of(found)
    return line(metric, value, target, value <= target, len(found))


def at_least(
    metric: str,
    found: Sequence[float],
    target: float,
    of: Callable[[Sequence[float]], float] = mean,
) -> Row | None:
    if not len(found):
        return None
    value = of(found)
    return line(metric, value, target, value >= target, len(found))


def min_of_sets(done: Sequence[Measured]) -> Callable[[Sequence[float]], float]:
    """The lowest mean of a set."""
    names = [each.configuration.dataset for each in done]

    def lowest(found: Sequence[float]) -> float:
        return min(
            mean([value for value, name in zip(found, names) if name == dataset]) for dataset in set(names)
        )

    return lowest


def usual_peers(each: Measured) -> list[str]:
    return sorted({method for method, _ in each.values if method.startswith(("cleanlab", "datalab"))})


def leads(
    done: Sequence[Measured], metric: str, peers_of: Callable[[Measured], list[str]]
) -> list[Row | None]:
    """Mean lead over the peer with the best mean of each set, and the lowest lead of a set."""
    by_set: dict[str, list[Measured]] = {}
    for each in done:
        if each.value("winnow", metric) is not None and each.value(each.main_peer, metric) is not None:
            by_set.setdefault(each.configuration.dataset, []).append(each)
    if not by_set:
        return []
    lead = {}
    for dataset, members in by_set.items():
        peers = [
            [each.value(peer, metric) for each in members]
            for peer in peers_of(members[0])
            if all(each.value(peer, metric) is not None for each in members)
        ]
        lead[dataset] = mean(values(members, "winnow", metric)) - max(mean(found) for found in peers)
    worst = min(lead, key=lambda dataset: lead[dataset])
    count = sum(map(len, by_set.values()))
    return [
        line(
            f"{metric} over cleanlab",
            mean(list(lead.values())),
            0.05,
            mean(list(lead.values())) >= 0.05,
            count,
        ),
        line(
            f"{metric} over cleanlab, lowest of a set",
            lead[worst],
            -SLACK,
            lead[worst] >= -SLACK,
            count,
            set=worst,
            sets={dataset: round(value, 4) for dataset, value in sorted(lead.items())},
        ),
    ]


def over_judges(done: Sequence[Measured]) -> list[float]:
    """Winnow's average precision over that of the best single judge of each set, by configuration."""
    found = []
    for dataset in sorted({each.configuration.dataset for each in done}):
        members = [each for each in done if each.configuration.dataset == dataset]
        members = [each for each in members if each.value("winnow", "average_precision") is not None]
        methods = {method for each in members for method, _ in each.values}
        judges = {method for method in methods if method.startswith("panel_")} - {TOGETHER}
        means = {judge: values(members, judge, "average_precision") for judge in judges}
        whole = [judge for judge, each in means.items() if len(each) == len(members) and each]
        if whole:
            best = max(whole, key=lambda judge: mean(means[judge]))
            found += [
                each.value("winnow", "average_precision") - value for each, value in zip(members, means[best])
            ]
    return found


def over_panel(done: Sequence[Measured]) -> list[float]:
    """What the signals of the training add to the probability of a wrong label, by all judges together."""
    pairs = [[each.value(method, "average_precision") for method in ("winnow", TOGETHER)] for each in done]
    return [mine - judges for mine, judges in pairs if mine is not None and judges is not None]


def calibration_of_sets(
    done: Sequence[Measured], of: Callable[[Bins], float] = calibration_error
) -> list[float]:
    """Of each set, over the flagged rows of all its configurations: one has so few that right probabilities err too."""
    bins: dict[str, np.ndarray] = {}
    for each in done:
        found = each.values.get(("winnow", "calibration_error"))
        if found is not None:
            dataset = each.configuration.dataset
            bins[dataset] = bins.get(dataset, 0.0) + np.array(found["bins"])
    return [of(found.tolist()) for found in bins.values()]


def sources(done: Sequence[Measured]) -> list[Row | None]:
    bad = [each for each in done if each.configuration.noise in ("source", "shift")]
    decoys = [each for each in done if each.configuration.noise == DECOY]
    return [
        at_least("bad source named", values(bad, "winnow", "source_named"), 0.95),
        at_least("no source named without one", values(decoys, "winnow", "source_named"), 0.95),
    ]


def of_core(done: Sequence[Measured]) -> list[Row | None]:
    """Targets about retrained arms, measured on test rows with true labels."""

    def gains(arm: str, among: Sequence[Measured]) -> list[float]:
        return [each.of_core(arm, "accuracy_gain") for each in among]

    done = [each for each in done if each.of_core("exported", "accuracy_gain") is not None]
    if not done:
        return []
    both = [each for each in done if each.of_core("relabelled", "accuracy_gain") is not None]
    better = [max(first, second) for first, second in zip(gains("removed", both), gains("relabelled", both))]
    much = [each for each in both if each.share >= 0.195]
    worth = [each for each in done if (each.of_core("planted", "accuracy_gain") or 0) >= CLEAR_GAIN]
    chosen = [each.of_core(each.chosen_arm, "accuracy_gain") for each in both]
    short = [float(mine >= best - 0.005) for mine, best in zip(chosen, better)]
    of_chosen = [each.of_core(each.chosen_arm, "accuracy_gain") for each in much]
    ahead = [mine - removed for mine, removed in zip(of_chosen, gains("removed", much))]
    improved = [float(each.of_core("winnow", "verdict") == "improved") for each in worth]
    return [
        at_most("got_worse of the export", [each.of_core("exported", "got_worse") for each in done], 0.02),
        at_most(
            "lower_at_all of the export", [each.of_core("exported", "lower_at_all") for each in done], 1.0
        ),
        at_least("chosen arm within .5 points of the better of removed and relabelled", short, 0.95),
        at_least("chosen arm over removal at 20 % and more", ahead, 0.005),
        at_least("improved where removing the planted rows gains a point", improved, 0.6),
    ]


def show(lines: Sequence[Row]) -> None:
    """Every target with its value; what is missed says by how much."""
    for each in lines:
        missed = "" if each["met"] else f"   MISSED by {abs(each['value'] - each['target']):.3f}"
        where = f" ({each['set']})" if "set" in each else ""
        print(
            f"{each['metric'] + where:68s} {each['value']:7.3f}  target {each['target']:.3f}  n {each['n']}{missed}"
        )


def usual_peer_names(rows: Sequence[Row]) -> list[str]:
    """The peers in some lines of results."""
    return sorted({row["method"] for row in rows if str(row["method"]).startswith(("cleanlab_", "datalab"))})


def failures(done: Sequence[Measured]) -> list[float]:
    """1 for every audit that failed, 0 for every other; of the core too."""
    audits = [found for each in done for found in (each.values, each.core)]
    tried = [found for found in audits if {("winnow", "failed"), ("winnow", "seconds")} & found.keys()]
    return [float(("winnow", "failed") in found) for found in tried]
