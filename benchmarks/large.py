"""Larger than memory: what every process of an audit holds, and how long its stages take, by the number of rows.

    python -m benchmarks.large [--rows N] [--quick]

The stages prepare to export run on datasets of `benchmarks.large_data` (64 features) with N/10 and with N rows
(2,000,000 unless given), with training streamed. All processes are sampled ten times a second, stage by stage; CPU
seconds are those of all processes, which other work on the machine changes little. `--quick`: N is 50,000.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from benchmarks.audit_cost import MemorySampler
from benchmarks.large_data import FEATURES, make_dataset
from benchmarks.results import CACHE, write_results
from pipeline.config import AuditConfig, load_config
from pipeline.errors import WinnowError
from pipeline.stages.opening import open_run
from pipeline.stages.stages import STAGES, fingerprints, run_stage

LAST = "export"
TARGET_BYTES = 2 * 2**30
TARGET_RATIO = 1.1
"""Of CPU seconds per row: linear within ten percent."""


def config_of(data: Path) -> AuditConfig:
    """Few steps, streamed, on a small network; neighbours among 2,000 rows; two workers."""
    tree: dict[str, Any] = {
        "name": "large",
        "data": {
            "train": str(data / "train"),
            "validation": str(data / "validation"),
            "features": dict.fromkeys(FEATURES, "numeric"),
            "label": "label",
            "validation_is_clean": True,
        },
        "model": {"name": "mlp", "hidden": [128, 64]},
        "training": {
            "epochs": 1,
            "batch_size": 1024,
            "learning_rate": 0.05,
            "checkpoints": 2,
            "memory_budget": "1 MiB",
        },
        "detection": {"reference_rows": 2000, "backdoors": False},
        "compute": {"workers": 2, "device": "cpu"},
        "verification": {"seeds": 0},
    }
    return AuditConfig.model_validate(tree)


def run_stages(config: Path, output: Path) -> None:
    """The audit itself, in a process of its own: prints each stage's name as it begins; first the workers start."""
    with open_run(load_config(config), output) as context:
        print("start", flush=True)
        context.workers.client.run(import_module, "pipeline.detection.stage")
        expected = fingerprints(context.config)
        for stage in STAGES:
            print(stage.name, flush=True)
            run_stage(stage, context, expected[stage.name])
            if stage.name == LAST:
                break
        print("end", flush=True)


def measure(rows: int) -> dict[str, dict[str, float]]:
    """Stage → wall and CPU seconds, and the bytes of the largest process."""
    data = CACHE / "large" / str(rows)
    make_dataset(data, rows)
    with tempfile.TemporaryDirectory(dir=CACHE / "large") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(config_of(data).to_yaml(), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "benchmarks.large",
            "--audit",
            str(config),
            str(Path(folder) / "run"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        found = follow(process)
        if process.wait() != 0:
            raise WinnowError(f"the audit of {rows:,} rows failed")
    return found


def follow(process: subprocess.Popen[str]) -> dict[str, dict[str, float]]:
    assert process.stdout is not None
    found: dict[str, dict[str, float]] = {}
    stage, begin, cpu, sampler = "", 0.0, 0.0, None
    for line in process.stdout:
        now, used = time.perf_counter(), cpu_seconds(process.pid)
        if sampler is not None:
            sampler.stop()
            found[stage] = {
                "wall_seconds": now - begin,
                "cpu_seconds": used - cpu,
                "largest_process_bytes": float(max(sampler.largest.values(), default=0)),
            } | {f"{kind} bytes": float(size) for kind, size in sampler.largest.items()}
            print(f"  {stage:10s} {now - begin:8.1f} s {used - cpu:8.1f} CPU s", sampler.largest, flush=True)
        stage, begin, cpu = line.strip(), time.perf_counter(), cpu_seconds(process.pid)
        sampler = None if stage == "end" else MemorySampler(process.pid)
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its descendants so far."""
    root, total = psutil.Process(pid), 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.Error:  # it has just ended
            continue
    return total


def results(small: int, large: int, by_rows: dict[int, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for rows, stages in by_rows.items():
        for stage, values in stages.items():
            shown = {"task": f"rows_{rows}", "method": "winnow", "stage": stage, "n": 1}
            lines += [shown | {"metric": metric, "value": value} for metric, value in values.items()]
        largest = max(values["largest_process_bytes"] for values in stages.values())
        line = {
            "task": f"rows_{rows}",
            "method": "winnow",
            "metric": "largest_process_bytes",
            "value": largest,
        }
        lines.append(line | {"n": 1, "target": TARGET_BYTES, "met": largest <= TARGET_BYTES})
    one, two = by_rows[small], by_rows[large]

    def total(stages: dict[str, dict[str, float]], metric: str) -> float:
        return sum(values[metric] for stage, values in stages.items() if stage != "start")

    def ratio(metric: str, value: float, **more: Any) -> None:
        lines.append(
            {"task": f"rows_{small}_to_{large}", "method": "winnow", "metric": metric, "value": value} | more
        )

    def peak(stages: dict[str, dict[str, float]]) -> float:
        return max(values["largest_process_bytes"] for values in stages.values())

    ratio("memory_ratio", peak(two) / peak(one))
    ratio("bytes_per_further_row", (peak(two) - peak(one)) / (large - small))
    for metric in ("cpu_seconds", "wall_seconds"):
        each = total(two, metric) / total(one, metric) * small / large
        ratio(f"{metric}_per_row_ratio", each, target=TARGET_RATIO, met=each <= TARGET_RATIO)
    for stage in (stage for stage in two if stage not in ("start", "verify")):
        each = two[stage]["cpu_seconds"] / one[stage]["cpu_seconds"] * small / large
        ratio("cpu_seconds_per_row_ratio", each, stage=stage)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--quick", action="store_true", help="50,000 rows")
    parser.add_argument("--audit", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.audit:
        run_stages(*given.audit)
        return
    large = 50_000 if given.quick else given.rows
    small = large // 10
    by_rows = {}
    for rows in (small, large):
        print(f"{rows:,} rows", flush=True)
        by_rows[rows] = measure(rows)
    lines = results(small, large, by_rows)
    for line in lines:
        if line["task"].endswith(f"to_{large}") or "target" in line:
            print(
                f"{line['task']:28s} {line['metric']:32s} {line.get('stage', ''):10s} {line['value']:16,.3f}"
            )
    print(write_results("large", lines))


if __name__ == "__main__":
    try:
        main()
    except WinnowError as error:
        sys.exit(f"error: {error}")
