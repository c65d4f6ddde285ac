"""Speed against kronfluence and against bare forward and backward passes, and how cost grows.

    python -m benchmarks.speed [--quick] [--data DIR]

Everything runs on one thread in this process. The two sides of a comparison take turns, so that whatever else
the machine does meets both; times are CPU seconds of the process, wall times stand beside them. Finished
tasks are kept under benchmarks/cache/speed, so that the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.models import MODELS, Trained, batches, fashion_mnist, mlp, train
from benchmarks.results import CACHE, write_results
from benchmarks.speed_peer import Kronfluence
from benchmarks.timing import Row, ratios, relative, seconds_rows, summary, turns
from pipeline.attribution import (
    Batch,
    PreparedSegment,
    add_tensors,
    cross_entropy,
    influence_spectrum,
    mean_gradient_sums,
    prepare_segment,
    query_filters,
    score_rows,
    source_spectrum,
)
from pipeline.runs.directory import write_json

SAMPLES = Path(__file__).parents[1] / "data_samples"
ENTROPY = cross_entropy()


@dataclass(frozen=True)
class Sizes:
    """Rows per task and repetitions."""

    repeats: int
    peer: dict[str, int]
    peer_factors: dict[str, int]
    audit: dict[str, int]
    scaling_rows: Sequence[int]
    scaling_width: Sequence[int]


FULL = Sizes(
    repeats=5,
    peer={"mlp": 64, "convnet": 16, "transformer": 16},
    peer_factors={"mlp": 512, "convnet": 64, "transformer": 128},
    audit={"mlp": 4000, "convnet": 64, "transformer": 32},
    scaling_rows=(10_000, 100_000, 1_000_000),
    scaling_width=(256, 512, 1024, 2048),
)
QUICK = Sizes(
    repeats=2,
    peer={"mlp": 16},
    peer_factors={"mlp": 64},
    audit={"mlp": 500},
    scaling_rows=(10_000, 30_000),
    scaling_width=(256, 512),
)
BATCH = {"mlp": 1000, "convnet": 64, "transformer": 64}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed")
    parser.add_argument(
        "--quick", action="store_true", help="the MLP alone with few rows, within two minutes"
    )
    parser.add_argument("--data", type=Path, default=SAMPLES, help="holds fashion_mnist")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = QUICK if arguments.quick else FULL
    folder = CACHE / ("speed-quick" if arguments.quick else "speed")
    rows: list[Row] = []
    for name, task in tasks(arguments.data, sizes, folder).items():
        path = folder / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"rows": task()})
        found = json.loads(path.read_text())["rows"]
        rows += found
        for row in found:
            print(describe(row), flush=True)
    print(write_results("speed", rows))


def tasks(data: Path, sizes: Sizes, folder: Path) -> dict[str, Callable[[], list[Row]]]:
    found: dict[str, Callable[[], list[Row]]] = {}
    for kind in sizes.audit:
        found[f"source_audit-{kind}"] = lambda kind=kind: source_audit(kind, data, sizes)  # type: ignore[misc]
    for kind in sizes.peer:
        found[f"peer-{kind}"] = lambda kind=kind: against_peer(kind, data, sizes, folder / kind)  # type: ignore[misc]
    found["scaling_rows"] = lambda: scaling_rows(data, sizes)
    found["scaling_width"] = lambda: scaling_width(data, sizes)
    return found


def describe(row: Row) -> str:
    extra = " ".join(
        f"{key}={row[key]}" for key in ("model", "segments", "factors", "rows", "width") if key in row
    )
    spread = f" [{row['low']:.3g}, {row['high']:.3g}]" if "low" in row else ""
    return f"{row['task']:30s} {row['method']:14s} {row['metric']:28s} {row['value']:10.4g}{spread}  {extra}"


def trained(kind: str, data: Path, steps: int = 120) -> tuple[Trained, Tensor, Tensor]:
    pixels, labels = fashion_mnist(data, "train")
    torch.manual_seed(0)
    return train(MODELS[kind](), pixels, labels, steps), pixels, labels


def bare_passes(run: Trained, rows: Sequence[Batch]) -> None:
    """What training itself costs per epoch: forward and backward with weight gradients, at every checkpoint."""
    for checkpoint in range(len(run.states)):
        run.load(checkpoint)
        for batch in rows:
            run.model.zero_grad()
            functional.cross_entropy(run.model(batch.inputs), batch.labels).backward()
    run.model.zero_grad()


def fit_segments(
    run: Trained, rows: Sequence[Batch], count: int, sample: float = 1.0
) -> list[PreparedSegment]:
    size = len(run.states) // count
    found = []
    for start in range(0, len(run.states), size):
        places = tuple(range(start, start + size))
        spectrum = source_spectrum(sum(run.lr_sums[place] for place in places))
        found.append(
            prepare_segment(run.model, run.load, ENTROPY, rows, places, spectrum, covariance_sample=sample)
        )
    return found


def mean_query(run: Trained, query: Sequence[Batch]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for batch in query:
        total = add_tensors(total, mean_gradient_sums(run.model, ENTROPY, batch.inputs, batch.labels))
    rows = sum(len(batch.labels) for batch in query)
    return {name: value / rows for name, value in total.items()}


def source_audit(kind: str, data: Path, sizes: Sizes) -> list[Row]:
    """Six checkpoints, self-influence and validation harm, against six bare passes over the same rows."""
    run, pixels, labels = trained(kind, data)
    rows = batches(pixels[: sizes.audit[kind]], labels[: sizes.audit[kind]], BATCH[kind])
    segments = {count: fit_segments(run, rows, count) for count in (1, 3)}
    run.load(len(run.states) - 1)
    query = mean_query(run, rows[:1])
    filters = {count: {"validation": query_filters(query, prepared)} for count, prepared in segments.items()}

    def attribute(count: int) -> Any:
        return score_rows(run.model, run.load, ENTROPY, rows, segments[count], len(labels), filters[count])

    works: dict[str, Callable[[], Any]] = {
        "passes": lambda: bare_passes(run, rows),
        "attribute 1": lambda: attribute(1),
        "attribute 3": lambda: attribute(3),
        "factors": lambda: fit_segments(run, rows, 1),
        "factors, quarter": lambda: fit_segments(run, rows, 1, sample=0.25),
    }
    seconds, found = turns(works, sizes.repeats)
    common = {
        "task": "source_audit",
        "method": "winnow",
        "metric": "ratio",
        "model": kind,
        "rows": sizes.audit[kind],
    }
    result = seconds_rows("source_audit", seconds, {"model": kind, "rows": sizes.audit[kind]})
    for count in (1, 3):
        alone = seconds[f"attribute {count}"]
        result.append(
            common | {"segments": count, "factors": False} | summary(ratios(alone, seconds["passes"]))
        )
        for name, share in (("factors", 1.0), ("factors, quarter", 0.25)):
            both = [(a[0] + f[0], a[1] + f[1]) for a, f in zip(alone, seconds[name], strict=True)]
            extra = {"segments": count, "factors": True, "covariance_sample": share}
            result.append(common | extra | summary(ratios(both, seconds["passes"])))
    exact = found["attribute 1"].self_influence
    estimated = score_rows(
        run.model, run.load, ENTROPY, rows, found["factors, quarter"], len(labels)
    ).self_influence
    dense = score_rows(
        run.model, run.load, ENTROPY, rows[:1], segments[3], len(labels), self_influence_tolerance=0.0
    ).self_influence
    low_rank = found["attribute 3"].self_influence[: len(dense)]
    differences = {
        "covariance_sample_difference": relative(estimated, exact),
        "low_rank_difference": relative(low_rank, dense),
    }
    result += [common | {"metric": metric, "value": value, "n": 1} for metric, value in differences.items()]
    return result


def scaling_rows(data: Path, sizes: Sizes) -> list[Row]:
    """An MLP 49-64-10 on pooled pixels; real rows repeated with jitter, made chunk by chunk."""
    pixels, labels = fashion_mnist(data, "train")
    small = functional.avg_pool2d(pixels.view(-1, 1, 28, 28), 4).flatten(1)
    torch.manual_seed(0)
    run = train(mlp(49, (64,)), small, labels, 120)
    fitted = batches(small[:6000], labels[:6000], 1000)
    segments = fit_segments(run, fitted, 1)
    filters = {"validation": query_filters(mean_query(run, fitted[:1]), segments)}
    noise = 0.05 * torch.randn(8192, 49, generator=torch.Generator().manual_seed(0))

    def score(count: int) -> None:
        for start in range(0, count, 8192):
            places = torch.arange(start, min(start + 8192, count)) % len(labels)
            rows = batches(small[places] + noise[: len(places)], labels[places], 1024)
            score_rows(run.model, run.load, ENTROPY, rows, segments, count, filters)

    works = {str(count): (lambda count=count: score(count)) for count in sizes.scaling_rows}  # type: ignore[misc]
    seconds, _ = turns(works, sizes.repeats)
    result = []
    for count in sizes.scaling_rows:
        per_row = [a[0] / count for a in seconds[str(count)]]
        first = [a[0] / sizes.scaling_rows[0] for a in seconds[str(sizes.scaling_rows[0])]]
        common = {"task": "scaling_rows", "method": "winnow", "rows": count}
        result += [
            common | {"metric": "seconds"} | summary([a[0] for a in seconds[str(count)]]),
            common | {"metric": "ratio"} | summary([a / b for a, b in zip(per_row, first, strict=True)]),
        ]
    return result


def scaling_width(data: Path, sizes: Sizes) -> list[Row]:
    """An MLP d-d-d-10 for growing d, 512 rows, one checkpoint: self-influence, and a bare pass beside it."""
    pixels, labels = fashion_mnist(data, "train")
    works: dict[str, Callable[[], Any]] = {}
    for width in sizes.scaling_width:
        wide = pixels[:512].repeat(1, -(-width // 784))[:, :width]
        torch.manual_seed(0)
        model = mlp(width, (width, width))
        run = Trained(model, [dict(model.state_dict())], [1.0])
        rows = batches(wide, labels[:512], 512)
        segments = fit_segments(run, rows, 1)
        works[f"{width}"] = lambda run=run, rows=rows, s=segments: score_rows(  # type: ignore[misc]
            run.model, run.load, ENTROPY, rows, s, 512
        )
        works[f"{width} passes"] = lambda run=run, rows=rows: bare_passes(run, rows)  # type: ignore[misc]
    seconds, _ = turns(works, sizes.repeats)
    result, first = [], sizes.scaling_width[0]
    for width in sizes.scaling_width:
        own, passes = seconds[f"{width}"], seconds[f"{width} passes"]
        common = {"task": "scaling_width", "method": "winnow", "width": width}
        result += [
            common | {"metric": "seconds"} | summary([a[0] for a in own]),
            common | {"metric": "ratio"} | summary(ratios(own, passes)),
        ]
        if width > first:
            powers = [math.log(r) / math.log(width / first) for r in ratios(own, seconds[f"{first}"])]
            result.append(common | {"metric": "exponent"} | summary(powers))
    return result


def against_peer(kind: str, data: Path, sizes: Sizes, folder: Path) -> list[Row]:
    """Influence functions at one checkpoint: kronfluence and Winnow on the same model, weights and rows."""
    run, pixels, labels = trained(kind, data)
    last = len(run.states) - 1
    run.load(last)
    few, many = sizes.peer[kind], sizes.peer_factors[kind]
    fitted, scored = (batches(pixels[:count], labels[:count], BATCH[kind]) for count in (many, few))
    query = batches(pixels[-few:], labels[-few:], BATCH[kind])
    peer = Kronfluence(run.model, (pixels, labels), many, few, folder)
    own: list[PreparedSegment] = []

    def fit() -> PreparedSegment:
        return prepare_segment(run.model, run.load, ENTROPY, fitted, (last,), influence_spectrum())

    def self_influence() -> Tensor | None:
        return score_rows(run.model, run.load, ENTROPY, scored, own, 1).self_influence

    def validation() -> Tensor:
        filters = {"query": query_filters(mean_query(run, query), own)}
        scores = score_rows(run.model, run.load, ENTROPY, scored, own, 1, filters, self_influence=False)
        return -scores.harm["query"] * few

    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "factors": (fit, peer.factors),
        "self_influence": (self_influence, peer.self_influence),
        "validation_score": (validation, peer.validation_score),
    }
    result = []
    for name, (mine, theirs) in pairs.items():
        seconds, found = turns({"winnow": mine, "kronfluence": theirs}, sizes.repeats)
        if name == "factors":
            own.append(found["winnow"])
        task, extra = f"{kind}_{name}", {"rows": many if name == "factors" else few}
        result += seconds_rows(task, seconds, extra)
        quotient = summary(ratios(seconds["kronfluence"], seconds["winnow"]))
        result.append({"task": task, "method": "kronfluence", "metric": "ratio"} | quotient | extra)
        if name != "factors":
            difference = relative(found["kronfluence"].double(), found["winnow"])
            common = {"task": task, "method": "kronfluence", "metric": "max_relative_difference"}
            result.append(common | {"value": difference, "n": 1} | extra)
    return result


if __name__ == "__main__":
    main()
