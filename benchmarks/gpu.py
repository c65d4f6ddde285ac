"""Attribution on a GPU: time beside bare passes, memory, waits of the host, and agreement with the CPU.

    python -m benchmarks.gpu [--rows 4096] [--repeats 5]

Fits the factors of one checkpoint, and scores rows by a mean query and by single queries, with the models of the speed
benchmark. Writes to benchmarks/results/gpu.json. Where torch finds no GPU, it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.models import MODELS, Trained, batches
from benchmarks.results import write_results
from benchmarks.speed import ENTROPY, SAMPLES, mean_query, trained
from benchmarks.timing import Row, relative
from pipeline.attribution import (
    Batch,
    PreparedSegment,
    influence_spectrum,
    prepare_segment,
    query_filters,
    query_gradients,
    score_rows,
)

NO_GPU = "torch finds no GPU here, so nothing was measured. Run this where torch.cuda.is_available() is True."
BATCH, QUERIES, COMPARED = 256, 32, 64


class Work:
    """One model on one device, with the rows that are attributed."""

    def __init__(self, kind: str, data: Path, rows: int, device: torch.device) -> None:
        run, pixels, labels = trained(kind, data)
        places = torch.arange(rows) % len(labels)
        self.device, self.count = device, rows
        self.run = Trained(run.model.to(device), run.states, run.lr_sums)
        self.last = len(run.states) - 1
        self.run.load(self.last)
        self.rows = [self._moved(each) for each in batches(pixels[places], labels[places], BATCH)]
        self.query = self._moved(batches(pixels[-QUERIES:], labels[-QUERIES:], QUERIES)[0])

    def _moved(self, batch: Batch) -> Batch:
        assert isinstance(batch.inputs, Tensor)
        return Batch(batch.inputs.to(self.device), batch.labels.to(self.device), batch.row_ids)

    def bare_passes(self) -> None:
        for batch in self.rows:
            self.run.model.zero_grad()
            functional.cross_entropy(self.run.model(batch.inputs), batch.labels).backward()
        self.run.model.zero_grad()

    def fit(self) -> PreparedSegment:
        return prepare_segment(
            self.run.model, self.run.load, ENTROPY, self.rows, (self.last,), influence_spectrum()
        )

    def mean_filters(self, segment: PreparedSegment) -> Any:
        return query_filters(mean_query(self.run, [self.query]), [segment])

    def single_filters(self, segment: PreparedSegment) -> Any:
        assert isinstance(self.query.inputs, Tensor)
        found = query_gradients(self.run.model, ENTROPY, self.query.inputs, self.query.labels)
        return query_filters(found, [segment])

    def score(self, segment: PreparedSegment, filters: Any, self_influence: bool) -> dict[str, Tensor]:
        found = score_rows(
            self.run.model,
            self.run.load,
            ENTROPY,
            self.rows,
            [segment],
            self.count,
            {"query": filters},
            self_influence=self_influence,
        )
        own = {} if found.self_influence is None else {"self_influence": found.self_influence}
        return own | {"harm": found.harm["query"]}


def measured(kind: str, data: Path, rows: int, repeats: int, device: torch.device) -> list[Row]:
    """Seconds of every kind of work, their ratio to bare passes, peak memory and waits of the host a batch."""
    work = Work(kind, data, rows, device)
    segment = work.fit()
    mean, single = work.mean_filters(segment), work.single_filters(segment)
    works: dict[str, Callable[[], Any]] = {
        "passes": work.bare_passes,
        "factors": work.fit,
        "mean query and self-influence": lambda: work.score(segment, mean, self_influence=True),
        "single queries": lambda: work.score(segment, single, self_influence=False),
    }
    result, passes = [], 0.0
    for name, one in works.items():
        one()
        seconds, peak = timed(one, repeats, device)
        passes = passes or seconds
        common = {"task": f"{kind}: {name}", "method": "winnow", "rows": rows, "n": repeats}
        result += [
            common | {"metric": "seconds", "value": seconds},
            common | {"metric": "ratio to bare passes", "value": seconds / passes},
        ]
        if device.type == "cuda":
            result += [
                common | {"metric": "peak_mb", "value": peak},
                common | {"metric": "waits a batch", "value": waits(one) / len(work.rows)},
            ]
    return result + agreement(kind, data, device)


def timed(work: Callable[[], Any], repeats: int, device: torch.device) -> tuple[float, float]:
    """(median seconds, until the device is done; peak memory of the device in MB, 0 on the CPU)."""
    found, on_gpu = [], device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found), torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else 0.0


def waits(work: Callable[[], Any]) -> int:
    """How often the host waits for the GPU, as torch reports it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in said)


def agreement(kind: str, data: Path, device: torch.device) -> list[Row]:
    """The largest differences from the CPU's scores, relative to the largest score, with the CPU's factors."""
    here, there = (Work(kind, data, COMPARED, each) for each in (torch.device("cpu"), device))
    segment = here.fit()
    expected = here.score(segment, here.mean_filters(segment), self_influence=True)
    found = there.score(segment, there.mean_filters(segment), self_influence=True)
    return [
        {
            "task": f"{kind}: {name}",
            "method": "winnow",
            "metric": "max_relative_difference",
            "value": relative(found[name], expected[name]),
            "rows": COMPARED,
            "n": 1,
        }
        for name in expected
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path, default=SAMPLES, help="holds fashion_mnist")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(NO_GPU)
    device = torch.device("cuda", 0)
    rows = [{"task": "device", "method": torch.cuda.get_device_name(device), "metric": "count", "value": 1}]
    for kind in MODELS:
        rows += measured(kind, arguments.data, arguments.rows, arguments.repeats, device)
        for row in rows[-14:]:
            print(f"{row['task']:50s} {row['metric']:24s} {row['value']:10.4g}", flush=True)
    print(write_results("gpu", rows))


if __name__ == "__main__":
    main()
