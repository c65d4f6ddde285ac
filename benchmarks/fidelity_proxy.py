"""Can fidelity be known without retraining: numbers from the trajectory alone beside measured fidelity.

    python -m benchmarks.fidelity_proxy [--data DIR] [--sets first,second] [--done]

A run trains a small model, scores its rows with SOURCE, and measures fidelity as an audit does, with more groups:
models are retrained without random tenths of the rows, from other initial weights and in other orders. The candidates
see the recorded trajectory, the rows and the queries, and no retraining. A candidate is judged by Spearman's
correlation with measured fidelity over the runs. Two sets of runs have different data: what was chosen on one is
checked on the other. Runs whose data are not in DIR are left out. Finished runs are kept under
benchmarks/cache/fidelity_proxy, so that the same command goes on. `--done` sums up what is there. Writes to
benchmarks/results/fidelity_proxy.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.lds.models import mlp
from benchmarks.lds.rows import uci
from benchmarks.results import CACHE, HOME, write_results
from pipeline.attribution import Trajectory, TrajectoryRecorder, attribute
from pipeline.attribution.trajectory.recorder import first_tail_step
from pipeline.attribution.trajectory.trajectory import Checkpoint
from pipeline.seeds import random_state
from pipeline.verification.fidelity import REMOVED_SHARE, compare
from pipeline.verification.lds import random_mask

GROUPS, CONTROLS = 40, 10
TAIL, QUERY_TAIL = 0.25, 0.5
MOST_ROWS = 600
Row = dict[str, Any]
Recipes = tuple[tuple[tuple[int, ...], float, int, float], ...]


@dataclass(frozen=True)
class Data:
    """Standardised rows; the targets of a regression are float, classes int64."""

    inputs: Tensor
    labels: Tensor
    validation_inputs: Tensor
    validation_labels: Tensor

    @property
    def outputs(self) -> int:
        return 1 if self.labels.is_floating_point() else int(self.labels.max()) + 1


@dataclass(frozen=True)
class Run:
    """What is trained: SGD with momentum .9 on an MLP with hidden layers of these widths."""

    data: str
    hidden: tuple[int, ...]
    learning_rate: float
    epochs: int
    batch_size: int = 32
    weight_decay: float = 1e-3
    wrong: float = 0.0

    @property
    def name(self) -> str:
        hidden = "-".join(map(str, self.hidden)) or "linear"
        return f"{self.data} {hidden} lr {self.learning_rate:g} epochs {self.epochs} wrong {self.wrong:g}"


RECIPES: dict[str, Recipes] = {
    "classes": (
        ((), 0.03, 10, 0.0),
        ((16,), 0.01, 5, 0.2),
        ((32,), 0.03, 20, 0.0),
        ((32,), 0.1, 20, 0.2),
        ((64, 32), 0.03, 20, 0.2),
        ((64, 32), 0.1, 10, 0.0),
        ((64, 64), 0.2, 30, 0.1),
    ),
    "numbers": (
        ((), 0.003, 10, 0.0),
        ((32,), 0.003, 10, 0.0),
        ((32,), 0.02, 30, 0.0),
        ((64, 64), 0.01, 20, 0.0),
    ),
}
SETS = {
    "first": {
        "digits": "classes",
        "breast_cancer": "classes",
        "wine": "classes",
        "diabetes": "numbers",
        "uci_concrete": "numbers",
        "uci_parkinsons": "numbers",
    },
    "second": {
        "iris": "classes",
        "moons": "classes",
        "classification": "classes",
        "friedman": "numbers",
        "parity": "classes",
    },
}


def runs(which: str) -> list[Run]:
    """All runs of a set."""
    return [
        Run(name, hidden, rate, epochs, wrong=wrong)
        for name, kind in SETS[which].items()
        for hidden, rate, epochs, wrong in RECIPES[kind]
    ]


def parity() -> tuple[np.ndarray, np.ndarray]:
    """450 digits, and whether each is odd."""
    columns, target = datasets.load_digits(return_X_y=True)
    return columns[:450], target[:450] % 2


LOADERS: dict[str, Callable[..., Any]] = {
    "digits": datasets.load_digits,
    "breast_cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "diabetes": datasets.load_diabetes,
    "iris": datasets.load_iris,
    "moons": lambda **_: datasets.make_moons(600, noise=0.25, random_state=0),
    "classification": lambda **_: datasets.make_classification(
        600, 20, n_informative=8, n_classes=3, random_state=0
    ),
    "friedman": lambda **_: datasets.make_friedman1(450, noise=1.0, random_state=0),
    "parity": lambda **_: parity(),
}


def read(run: Run, folder: Path) -> Data | None:
    """The data of a run; None if they are not in the folder."""
    if run.data not in LOADERS:
        place = folder / run.data
        if not place.exists():
            return None
        found = uci(place, MOST_ROWS, 103)
        return Data(found.inputs, found.labels, found.validation_inputs, found.validation_labels)
    columns, target = LOADERS[run.data](return_X_y=True)
    order = random_state("fidelity proxy rows", len(target)).permutation(len(target))
    rows = min(MOST_ROWS, 2 * len(target) // 3)
    columns, target = columns[order], target[order]
    mean, deviation = columns[:rows].mean(0), columns[:rows].std(0) + 1e-6
    inputs = torch.tensor((columns - mean) / deviation, dtype=torch.float32).clamp(-5, 5)
    if run.data in ("diabetes", "friedman"):
        labels = torch.tensor((target - target[:rows].mean()) / target[:rows].std(), dtype=torch.float32)
    else:
        labels = torch.tensor(target)
    given = labels[:rows].clone()
    if run.wrong:
        state, classes = random_state("fidelity proxy labels", len(target)), int(labels.max()) + 1
        places = state.permutation(rows)[: round(run.wrong * rows)]
        given[places] = (given[places] + torch.tensor(state.randint(1, classes, len(places)))) % classes
    return Data(inputs[:rows], given, inputs[rows:], labels[rows:])


def build(run: Run, data: Data) -> nn.Module:
    return mlp(data.inputs.shape[1], *run.hidden, data.outputs)


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        return functional.mse_loss(outputs[:, 0], labels)
    return functional.cross_entropy(outputs, labels)


def optimizer_of(run: Run, parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=run.learning_rate, momentum=0.9, weight_decay=run.weight_decay)


def train(run: Run, data: Data, folder: Path) -> tuple[nn.Module, Trajectory]:
    """The training that is attributed, recorded."""
    torch.manual_seed(0)
    model, rows = build(run, data), len(data.labels)
    optimizer = optimizer_of(run, list(model.parameters()))
    steps = run.epochs * -(-rows // run.batch_size)
    recorder = TrajectoryRecorder(
        model, optimizer, folder, steps=steps, train_rows=rows, batch_size=run.batch_size, tail=QUERY_TAIL
    )
    for batch in orders(run, [np.arange(rows)], [0], steps):
        value = loss(model(data.inputs[batch[0]]), data.labels[batch[0]])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        recorder.step(loss=value)
    return model, Trajectory.load(folder)


def orders(run: Run, rows: list[np.ndarray], seeds: list[int], steps: int) -> list[Tensor]:
    """Row numbers `[models, batch]` of every step."""
    states = [random_state("fidelity proxy order", seed) for seed in seeds]
    found: list[Tensor] = []
    while len(found) < steps:
        order = np.stack([state.permutation(one) for state, one in zip(states, rows, strict=True)])
        found += torch.from_numpy(order).split(run.batch_size, 1)
    return found[:steps]


def retrain(run: Run, data: Data, kept: list[np.ndarray], first_seed: int) -> np.ndarray:
    """The mean validation loss of a model for each choice of rows, at the tail average, float64 `[models]`.

    All models begin with the same weights and take as many steps as on all rows; each has an order of its own.
    """
    torch.manual_seed(1)
    model = build(run, data)
    states = {
        name: value.detach().repeat(len(kept), *[1] * value.dim()).requires_grad_()
        for name, value in model.named_parameters()
    }
    optimizer = optimizer_of(run, list(states.values()))
    steps = run.epochs * -(-len(data.labels) // run.batch_size)
    first, tail = first_tail_step(steps, TAIL), {n: torch.zeros_like(s) for n, s in states.items()}

    def of_one(state: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return loss(torch.func.functional_call(model, state, (inputs,)), labels)

    each = torch.func.vmap(of_one)
    seeds = list(range(first_seed, first_seed + len(kept)))
    rows = [np.flatnonzero(one) for one in kept]
    for step, batch in enumerate(orders(run, rows, seeds, steps), 1):
        optimizer.zero_grad()
        each(states, data.inputs[batch], data.labels[batch]).sum().backward()
        optimizer.step()
        if step >= first:
            for name, value in states.items():
                tail[name] += value.detach() / (steps - first + 1)
    with torch.no_grad():
        shared = torch.func.vmap(of_one, in_dims=(0, None, None))
        return shared(tail, data.validation_inputs, data.validation_labels).double().numpy()


def measured(run: Run, data: Data, harm: np.ndarray) -> dict[str, Any]:
    """Fidelity as in an audit."""
    rows = len(harm)
    removed = np.stack(
        [random_mask(rows, REMOVED_SHARE, "fidelity proxy group", group) for group in range(GROUPS)]
    )
    without = retrain(run, data, list(~removed), 1)
    given = retrain(run, data, [np.ones(rows, dtype=bool)] * CONTROLS, 1000)
    return compare(-harm, removed, without, given)


@dataclass(frozen=True)
class Seen:
    """What candidates see."""

    run: Run
    data: Data
    model: nn.Module
    trajectory: Trajectory
    harm: np.ndarray

    def scores(self, trajectory: Trajectory, **options: Any) -> Any:
        train, query = (
            [(self.data.inputs, self.data.labels)],
            [(self.data.validation_inputs, self.data.validation_labels)],
        )
        kind = "squared_error" if self.data.labels.is_floating_point() else "cross_entropy"
        return attribute(self.model, trajectory, train, query, loss=kind, **options)

    def weights(self) -> list[dict[str, Tensor]]:
        """Of the checkpoints, then of the tail average."""
        places = range(len(self.trajectory.checkpoints))
        return [*map(self.trajectory.load_weights, places), self.trajectory.load_tail()]

    def validation_loss(self, weights: dict[str, Tensor]) -> float:
        outputs = torch.func.functional_call(self.model, weights, (self.data.validation_inputs,))
        return float(loss(outputs, self.data.validation_labels))

    def gradient(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {name: value.clone().requires_grad_() for name, value in weights.items()}
        outputs = torch.func.functional_call(self.model, found, (self.data.validation_inputs,))
        own = torch.autograd.grad(loss(outputs, self.data.validation_labels), list(found.values()))
        return dict(zip(found, own, strict=True))

    def signal(self, harm: np.ndarray) -> float:
        """The predicted standard deviation of the change between random tenths, in nats."""
        rows = len(harm)
        gone = REMOVED_SHARE * rows
        return float(np.sqrt(gone * rows / (rows - gone)) * harm.std())


def halves(trajectory: Trajectory) -> list[Trajectory]:
    """The trajectory of every second checkpoint, once the odd and once the even ones; each stands for both."""
    pairs = list(zip(trajectory.checkpoints[::2], trajectory.checkpoints[1::2], strict=True))

    def merged(one: Checkpoint, pair: tuple[Checkpoint, Checkpoint]) -> Checkpoint:
        applied = tuple(a + b for a, b in zip(pair[0].applied or (), pair[1].applied or (), strict=True))
        return replace(one, lr_sum=pair[0].lr_sum + pair[1].lr_sum, applied=applied or None)

    return [
        replace(trajectory, checkpoints=tuple(merged(pair[place], pair) for pair in pairs))
        for place in (0, 1)
    ]


def early_and_late(trajectory: Trajectory) -> list[Trajectory]:
    """The first and the last half of the checkpoints as trajectories."""
    middle = len(trajectory.checkpoints) // 2
    return [
        replace(trajectory, checkpoints=part)
        for part in (trajectory.checkpoints[:middle], trajectory.checkpoints[middle:])
    ]


def candidates(seen: Seen) -> dict[str, float]:
    """Numbers from the trajectory alone; the higher, the more faithful the scores should be."""
    weights = seen.weights()
    losses = [seen.validation_loss(one) for one in weights]
    tail, late = losses[-1], losses[len(losses) // 2 : -1]
    signal = seen.signal(seen.harm)
    excess = float(np.mean(np.abs(np.array(late) - tail)))
    spread = float(np.std(late))
    gradient = seen.gradient(weights[-1])
    moved = {name: weights[-2][name] - weights[-1][name] for name in weights[-1]}
    linear = sum(float((gradient[name] * moved[name]).sum()) for name in moved)
    remainder = abs(losses[-2] - tail - linear)
    distance = float(np.sqrt(sum(float(one.square().sum()) for one in moved.values())))
    size = float(np.sqrt(sum(float(one.square().sum()) for one in gradient.values())))
    found = {
        "signal over excess": signal / (excess + 1e-12),
        "signal over spread of late losses": signal / (spread + 1e-12),
        "signal over remainder": signal / (remainder + 1e-12),
        "signal over gradient times distance": signal / (size * distance + 1e-12),
        "signal over loss": signal / tail,
        "signal": signal,
        "few steps in time": -sum(each.lr_sum for each in seen.trajectory.checkpoints),
    }
    for name, parts in (("alternating", halves), ("early and late", early_and_late)):
        first, second = (seen.scores(part).harm.numpy() for part in parts(seen.trajectory))
        found[f"agreement of {name} checkpoints"] = float(np.corrcoef(first, second)[0, 1])
        found[f"rank agreement of {name} checkpoints"] = float(spearmanr(first, second)[0])
    whole = seen.scores(seen.trajectory)
    final = seen.scores(seen.trajectory, query_at="final").harm.numpy()
    found["agreement of tail and final query"] = float(np.corrcoef(seen.harm, final)[0, 1])
    segmented = seen.scores(seen.trajectory, segments=len(seen.trajectory.checkpoints)).harm.numpy()
    found["agreement of one and many segments"] = float(np.corrcoef(seen.harm, segmented)[0, 1])
    redrawn = seen.scores(seen.trajectory, seed=1).harm.numpy()
    found["agreement of drawn curvatures"] = float(np.corrcoef(seen.harm, redrawn)[0, 1])
    refined = seen.scores(seen.trajectory, method="source_refined").harm.numpy()
    found["agreement of plain and refined"] = float(np.corrcoef(seen.harm, refined)[0, 1])
    influence = seen.scores(seen.trajectory, method="influence").harm.numpy()
    found["agreement of SOURCE and influence"] = float(np.corrcoef(seen.harm, influence)[0, 1])
    own = whole.self_influence.numpy()
    last = whole.losses[-1].numpy()
    found["train loss at the end"] = float(last.mean())
    found["small self-influence"] = -float(own.mean())
    found["gap of losses"] = float(last.mean() - losses[-2])
    found["signal over self-influence"] = signal / float(own.mean())
    return found


AGREEMENTS = {
    "early and late": "agreement of early and late checkpoints",
    "alternating": "agreement of alternating checkpoints",
    "tail and final": "agreement of tail and final query",
    "plain and refined": "agreement of plain and refined",
}
PRODUCTS = (
    ("early and late", "tail and final"),
    ("alternating", "early and late", "tail and final"),
    ("early and late", "plain and refined"),
    ("alternating", "tail and final", "plain and refined"),
)


def with_products(single: dict[str, float]) -> dict[str, float]:
    """The candidates, and products of agreements; a negative agreement counts as 0."""
    products = {
        f"product of agreements: {', '.join(names)}": float(
            np.prod([max(0.0, single[AGREEMENTS[name]]) for name in names])
        )
        for names in PRODUCTS
    }
    return single | products


def measure(run: Run, folder: Path) -> Row | None:
    data = read(run, folder)
    if data is None:
        return None
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        model, trajectory = train(run, data, Path(place))
        seen = Seen(run, data, model, trajectory, np.zeros(0))
        seen = replace(seen, harm=seen.scores(trajectory).harm.numpy())
        proxies = candidates(seen)
    fidelity = measured(run, data, seen.harm)
    return {
        "run": run.name,
        "rows": len(data.labels),
        "fidelity": fidelity["correlation"]["value"],
        "low": fidelity["correlation"]["low"],
        "high": fidelity["correlation"]["high"],
        "noise": fidelity["noise"]["share"]["value"],
        "slope": fidelity["slope"]["value"],
        "seconds": round(time.perf_counter() - begin, 1),
        "candidates": proxies,
    }


def kept(which: str) -> Path:
    """The finished runs of a set, a line each."""
    return CACHE / "fidelity_proxy" / f"{which}.jsonl"


def finished(which: str) -> list[Row]:
    path = kept(which)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(one) for one in lines]
    return [row | {"candidates": with_products(row["candidates"])} for row in rows]


def correlations(which: str, found: list[Row]) -> list[Row]:
    """Each candidate's rank correlation with measured fidelity, the best first."""
    rows = []
    for name in dict.fromkeys(name for each in found for name in each["candidates"]):
        some = [each for each in found if name in each["candidates"]]
        value = spearmanr([each["candidates"][name] for each in some], [each["fidelity"] for each in some])[0]
        facts = {"task": which, "method": name, "metric": "rank_correlation"}
        rows.append(facts | {"value": round(float(value), 3), "n": len(some)})
    return sorted(rows, key=lambda row: -row["value"])


def measure_missing(which: str, folder: Path) -> None:
    done = {each["run"] for each in finished(which)}
    for run in runs(which):
        row = None if run.name in done else measure(run, folder)
        if row is None:
            continue
        kept(which).parent.mkdir(parents=True, exist_ok=True)
        with kept(which).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{run.name}: r {row['fidelity']:.2f}, noise {row['noise']:.2f}, {row['seconds']} s", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Fidelity from the trajectory alone, beside measured fidelity."
    )
    parser.add_argument("--data", type=Path, default=HOME / "data", help="folder of the original sets")
    parser.add_argument("--sets", default=",".join(SETS), help="first, second")
    parser.add_argument("--done", action="store_true", help="use what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.done:
        for which in arguments.sets.split(","):
            measure_missing(which, arguments.data)
    found = {which: finished(which) for which in SETS}
    judged = [row for which, some in found.items() if some for row in correlations(which, some)]
    judged += correlations("both", [row for some in found.values() for row in some])
    single = [
        {
            "task": row["run"],
            "set": which,
            "method": "retraining",
            "metric": "fidelity",
            "value": row["fidelity"],
        }
        | {name: row[name] for name in ("low", "high", "rows", "noise", "slope", "candidates")}
        | {"n": GROUPS}
        for which, some in found.items()
        for row in some
    ]
    for row in judged:
        print(f"{row['task']:7} {row['value']:6.2f} n {row['n']:3} {row['method']}")
    write_results("fidelity_proxy", [*judged, *single])


if __name__ == "__main__":
    main()
