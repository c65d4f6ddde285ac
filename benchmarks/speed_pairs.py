"""Scores of single queries, queries × rows, against kronfluence: time and peak memory.

    python -m benchmarks.speed_pairs [--rows 1000] [--models mlp convnet transformer] [--repeats 3]

Influence functions at one checkpoint, from factors that both sides have fitted before. The two sides take turns in one
process on one thread; times are CPU seconds. Peak memory is that of a process of its own for each side, torch and the
fit of the factors included; Linux tells it. Normalisations are frozen, since kronfluence leaves them out. Finished
tasks are kept under benchmarks/cache/speed_pairs, so that the same command goes on after an interruption, and adds to
the results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.models import batches
from benchmarks.results import CACHE, write_results
from benchmarks.speed import BATCH, ENTROPY, SAMPLES, trained
from benchmarks.speed_peer import Kronfluence
from benchmarks.timing import Row, ratios, relative, seconds_rows, summary, turns
from pipeline.attribution import influence_spectrum, prepare_segment, score_rows
from pipeline.attribution.front_door import QUERY_TOLERANCE
from pipeline.attribution.methods import METHODS
from pipeline.attribution.queries.compression import joined_filters
from pipeline.attribution.queries.compression_choice import CompressionChoice
from pipeline.attribution.queries.gradients import Queries, query_gradient_parts, query_positions
from pipeline.attribution.queries.vector_filters import vector_layers
from pipeline.attribution.scores.conductor import Chain, find_filters
from pipeline.runs.directory import write_json

MODELS = ("mlp", "convnet", "transformer")
SIDES = ("winnow", "kronfluence")
QUERIES, FITTED = 100, 128
_NORMS = (nn.LayerNorm, nn.GroupNorm)


def sides(kind: str, rows: int, data: Path, folder: Path) -> dict[str, Callable[[], Callable[[], Tensor]]]:
    """Name -> a function that fits the factors and returns the work that is timed: scores ``[queries, rows]``."""
    run, pixels, labels = trained(kind, data)
    last = len(run.states) - 1
    run.load(last)
    for module in run.model.modules():
        if isinstance(module, _NORMS):
            module.requires_grad_(False)
    places = torch.arange(rows + QUERIES) % len(labels)
    pixels, labels = pixels[places], labels[places]

    def winnow() -> Callable[[], Tensor]:
        fitted, scored = (batches(pixels[:n], labels[:n], BATCH[kind]) for n in (FITTED, rows))
        queries = Queries([(pixels[rows:], labels[rows:])], ENTROPY, "final", reduced=False)
        segment = prepare_segment(run.model, run.load, ENTROPY, fitted, (last,), influence_spectrum())
        chain, method = Chain([], [segment]), METHODS["influence"]

        def work() -> Tensor:
            positions = query_positions(run.model, queries)
            vectors = vector_layers(positions, [segment])
            choice = CompressionChoice([rows], QUERIES, positions, torch.float32, vectors)
            filters = joined_filters(
                find_filters(method, chain, part, None, QUERY_TOLERANCE, choice).filters
                for part in query_gradient_parts(run.model, queries, vectors)
            )
            found = score_rows(
                run.model,
                run.load,
                ENTROPY,
                scored,
                [segment],
                1,
                {"each": filters},
                self_influence=False,
            )
            return -found.harm["each"]

        return work

    def kronfluence() -> Callable[[], Tensor]:
        peer = Kronfluence(run.model, (pixels, labels), FITTED, rows, folder)
        peer.query = torch.utils.data.Subset(peer.query.dataset, range(rows, rows + QUERIES))
        peer.factors()
        return lambda: peer.single_queries(QUERIES)

    return {"winnow": winnow, "kronfluence": kronfluence}


def measured(kind: str, rows: int, data: Path, repeats: int) -> list[Row]:
    """Times in turns, their ratio, the difference of the scores, and the peaks."""
    task, extra = f"pairs_{kind}", {"rows": rows, "queries": QUERIES}
    with tempfile.TemporaryDirectory() as folder:
        works = {name: make() for name, make in sides(kind, rows, data, Path(folder)).items()}
        seconds, found = turns(works, repeats)
    difference = relative(found["kronfluence"].double(), found["winnow"])
    peer = {"task": task, "method": "kronfluence"}
    result = [
        *seconds_rows(task, seconds, extra),
        peer | {"metric": "ratio"} | summary(ratios(seconds["kronfluence"], seconds["winnow"])) | extra,
        peer | {"metric": "max_relative_difference", "value": difference, "n": 1} | extra,
    ]
    for side in SIDES:
        peak = peak_of(side, kind, rows, data)
        result.append({"task": task, "method": side, "metric": "peak_mb", "value": peak, "n": 1} | extra)
    return result


def peak_of(side: str, kind: str, rows: int, data: Path) -> float:
    """Peak memory of a process that does one side's work once, in MB."""
    options = ["--peak", side, "--models", kind, "--rows", str(rows), "--data", str(data)]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.speed_pairs", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(side: str, kind: str, rows: int, data: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sides(kind, rows, data, Path(folder))[side]()()
    # Not ru_maxrss: a process inherits it from the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_pairs")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=3, help="after one turn that isn't counted")
    parser.add_argument("--data", type=Path, default=SAMPLES, help="holds fashion_mnist")
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print_peak(arguments.peak, arguments.models[0], arguments.rows[0], arguments.data)
        return
    folder = CACHE / "speed_pairs"
    folder.mkdir(parents=True, exist_ok=True)
    for rows in arguments.rows:
        for kind in arguments.models:
            path = folder / f"{kind}-{rows:08d}.json"
            if not path.exists():
                write_json(path, {"rows": measured(kind, rows, arguments.data, arguments.repeats)})
            for row in json.loads(path.read_text())["rows"]:
                print(
                    f"{row['task']} {row['rows']} {row['method']} {row['metric']} {row['value']:.4g}",
                    flush=True,
                )
    found = [row for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text())["rows"]]
    print(write_results("speed_pairs", found))


if __name__ == "__main__":
    main()
