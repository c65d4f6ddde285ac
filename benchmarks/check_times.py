"""How well `winnow check` tells beforehand what an audit takes, stage by stage.

    python -m benchmarks.check_times [--quick] [--times N] [--data DIR]

Ten configurations, `check` and the audit three times each (or N): the sample configs, and one file each as `winnow
init` proposes it. An estimate holds where the medians differ by at most 30 % of what the stage took, or 5 s. Run it
on a machine that does nothing else. Runs are kept under `benchmarks/cache/check_times`, so that the same command goes
on after an interruption; remove the folder to measure anew. `--quick`: the digits, once, with two seeds. DIR: a folder
like ../shared/data; the sets that are not there are left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.results import CACHE, commit, write_results
from pipeline.config import AuditConfig, load_config
from pipeline.data.first_look.inspect_files import look
from pipeline.preflight.check import check
from pipeline.runs.directory import read_json, write_json
from pipeline.stages.opening import open_run
from pipeline.stages.stages import STAGES, fingerprints, run_stage

SAMPLES = ("digits", "digits_pairs", "sms_spam", "adult", "fashion_mnist")
ONE_FILE = {
    "uci_concrete": ("target", 3_000),
    "uci_adult": ("label", 12_000),
    "trec": ("label", 4_000),
    "sst2": ("label", 4_000),
    "fashion_mnist": ("label", 3_000),
}
"""Set → its label and how many of its train rows make the file."""
SHARE, SECONDS = 0.3, 5.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--times", type=int, default=3, help="how often each is checked and audited")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    chosen = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, config in configurations(chosen.data, chosen.quick, Path(folder)).items():
            rows += compare(name, config, 1 if chosen.quick else chosen.times, chosen.quick)
    held = sum(row["held"] for row in rows if row["metric"] == "took")
    print(f"{held} of {sum(row['metric'] == 'took' for row in rows)} estimates hold")
    print(write_results("check_times", rows))


def configurations(data: Path, quick: bool, folder: Path) -> dict[str, AuditConfig]:
    if quick:
        return {"digits": load_config("configs/digits.yaml", {"verification.seeds": 2})}
    found = {name: load_config(f"configs/{name}.yaml") for name in SAMPLES}
    for name, (label, rows) in ONE_FILE.items():
        files = sorted((data / name).glob("train*.parquet")) or sorted(
            (data / name / "train").glob("*.parquet")
        )
        if not files:
            print(f"{name}: not in {data}, left out")
            continue
        made = folder / f"{name}.parquet"
        pq.write_table(pq.read_table(files).slice(0, rows), made)
        path = folder / f"{name}.yaml"
        path.write_text(look([str(made)], label=label).to_yaml())
        found[f"{name}_one_file"] = load_config(path)
    return found


def compare(name: str, config: AuditConfig, times: int, quick: bool) -> list[dict[str, Any]]:
    """A line for what was said and one for what it took, of each stage that `check` speaks of."""
    path = CACHE / f"check_times{'_quick' if quick else ''}" / f"{name}.json"
    runs: list[dict[str, Any]] = read_json(path)["runs"] if path.exists() else []
    while len(runs) < times:
        said = check(config).seconds
        runs.append({"commit": commit(), "said": said, "took": audited(config)})
        write_json(path, {"runs": runs})
    rows = []
    for stage in runs[0]["said"]:
        if stage not in runs[0]["took"]:
            continue
        estimate, real = (statistics.median(run[what][stage] for run in runs) for what in ("said", "took"))
        held = abs(estimate - real) <= max(SHARE * real, SECONDS)
        print(
            f"{name:24s} {stage:10s} said {estimate:7.1f} s, took {real:7.1f} s{'' if held else '   OFF'}",
            flush=True,
        )
        commits = sorted({str(run["commit"]) for run in runs})
        each = {"task": name, "method": "winnow check", "stage": stage, "n": len(runs), "commits": commits}
        each |= {"held": held}
        rows += [each | {"metric": "said", "value": estimate}, each | {"metric": "took", "value": real}]
    return rows


def audited(config: AuditConfig) -> dict[str, float]:
    """Seconds of each stage of an audit in a folder that doesn't stay."""
    with tempfile.TemporaryDirectory() as folder, open_run(config, Path(folder) / "run") as context:
        expected = fingerprints(config)
        for stage in STAGES:
            run_stage(stage, context, expected[stage.name])
        return {name: entry["seconds"] for name, entry in context.run.record["stages"].items()}


if __name__ == "__main__":
    main()
