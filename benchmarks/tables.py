"""Write the tables of docs/measurements/ and the leaderboard of README.md anew from benchmarks/results/.

    python -m benchmarks.tables

A section of the page lies between `<!-- results: NAME -->` and `<!-- end -->`; what is between is replaced,
the rest of the page is left as it is. A section whose results are not there stays as it is. `NAME whole` stands for
everything that NAME's results say, where `NAME` alone is a choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.detection_tables import detection
from benchmarks.lds_tables import banks, lds, lds_whole
from benchmarks.leaderboard import README, with_leaderboard
from benchmarks.markdown import Rows, table
from benchmarks.one_file.tables import one_file
from benchmarks.results import HOME, RESULTS, read_results
from benchmarks.speed_pairs_tables import speed_pairs
from benchmarks.speed_tables import speed
from pipeline.runs.directory import write_text

PAGES = sorted((HOME.parent / "docs" / "measurements").glob("*.md"))
SECTION = re.compile(r"(<!-- results: ((\w+)(?: whole)?) -->\n).*?(<!-- end -->)", re.DOTALL)
COMMON = ("task", "method", "metric", "value", "low", "high", "n")


def main() -> None:
    for path in PAGES:
        write_text(path, rewrite(path.read_text(encoding="utf-8"), RESULTS))
        print(path)
    write_text(README, with_leaderboard(README.read_text(encoding="utf-8"), RESULTS))
    print(README)


def rewrite(page: str, results: Path) -> str:
    """The page with every marked section made from the results of its NAME, where they are there."""

    def section(found: re.Match[str]) -> str:
        there = read_results(found[3], results)
        return found[0] if there is None else found[1] + render(found[2], there) + found[4]

    return SECTION.sub(section, page)


def render(name: str, results: dict[str, Any]) -> str:
    """The tables of one benchmark under a line that says how they came to be."""
    layout = LAYOUTS.get(name, plain)
    origin = f"`{results['command']}` · {results['date']} · commit {results['commit']} · {results['machine']}"
    return f"\n{origin}\n\n{layout(results['rows'])}\n"


def audit_cost(rows: Rows) -> str:
    """One line per metric, bytes as MiB, with its target where it has one."""
    lines = []
    for row in rows:
        what = row["metric"].replace("_bytes", "").replace("_", " ")
        what += "".join(f": {row[key]}" for key in ("stage", "process") if key in row)
        target = f"≤ {cost(row['metric'], row['target'])}" if "target" in row else ""
        lines.append([row["task"], what, cost(row["metric"], row["value"]), target])
    return table(["task", "what", "value", "target"], lines)


def own_evidence(rows: Rows) -> str:
    """Average precision by set and method, then how far ahead each arm is."""
    sets = {row["task"]: str(row["n"]) for row in rows if row["task"] != "all"}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    value = {(row["task"], row["method"], row["metric"]): row["value"] for row in rows}
    lines = [
        [name, draws, *(f"{value[name, method, 'average_precision']:.3f}" for method in methods)]
        for name, draws in sets.items()
    ]
    whole = table(["set", "draws", *methods], lines)
    leads = list(dict.fromkeys(row["metric"] for row in rows if row["task"] == "all"))
    arms = list(dict.fromkeys(row["method"] for row in rows if row["task"] == "all"))
    ahead = [[arm, *(f"{value['all', arm, lead]:+.3f}" for lead in leads)] for arm in arms]
    return f"{whole}\n\n{table(['arm', *leads], ahead)}"


def promises(rows: Rows) -> str:
    """One line per task, rule and what it was asked; shares in percent, the promise with its 95 % interval."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        found.setdefault((row["task"], row["method"], row["asked"]), {})[row["metric"]] = row

    def percent(row: dict[str, Any] | None) -> str:
        return "–" if row is None else f"{100 * row['value']:.1f} %"

    def promised(row: dict[str, Any]) -> str:
        low, high = (f"{100 * row[end]:.1f}" for end in ("low", "high"))
        name = row["metric"].replace("_", " ")
        return f"{name} {percent(row)} ({low} – {high}){'' if row['met'] else ', missed'}"

    lines = []
    for (task, method, asked), metrics in found.items():
        answers = f"{metrics['answers']['value']:.0f}" if "answers" in metrics else "–"
        others = [percent(metrics.get(metric)) for metric in ("abstained", "precision", "recall")]
        promise = next(row for row in metrics.values() if "met" in row)
        lines.append([task, f"{method}, {asked}", promised(promise), *others, answers])
    return table(["task", "rule", "promise", "abstained", "precision", "recall", "answers"], lines)


def poison(rows: Rows) -> str:
    """The false alarms, then one line per dataset and kind of attack: means over the attacks that work."""
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["task"], {})[row["method"], row["metric"]] = row

    def percent(row: dict[str, Any] | None) -> str:
        return "–" if row is None or row["value"] is None else f"{100 * row['value']:.1f} %"

    alarms = [
        [
            metric.replace("_", " "),
            f"{percent(row)} ({100 * row['low']:.1f} – {100 * row['high']:.1f})",
            str(row["n"]),
        ]
        for (_, metric), row in found["all"].items()
    ]
    wanted = [
        ("as_given", "success_before"),
        ("winnow", "success_after"),
        ("as_given", "success_natural"),
        ("winnow", "alarm"),
        *((method, metric) for method in POISON_METHODS for metric in ("recall", "precision")),
        ("winnow", "clean_lost"),
    ]
    lines = [
        [task, str(values["winnow", "alarm"]["n"]), *(percent(values.get(key)) for key in wanted)]
        for task, values in found.items()
        if ("as_given", "success_before") in values and ("winnow", "alarm") in values
    ]
    of_methods = [
        f"{name} {metric}" for name in POISON_METHODS.values() for metric in ("recall", "precision")
    ]
    head = ["attack", "n", "success before", "after", "natural", "alarm", *of_methods, "clean rows lost"]
    return table(["", "share", "n"], alarms) + "\n\n" + table(head, lines)


POISON_METHODS = {
    "winnow": "Winnow",
    "art_spectral_signatures": "spectral signatures",
    "art_activation_clustering": "activation clustering",
}


def cost(metric: str, value: float) -> str:
    if metric.endswith("_bytes"):
        return f"{value / 2**20:,.0f} MiB"
    if metric.startswith("share_"):
        return f"{100 * value:.0f} %"
    return f"{value:,.2f} s" if metric.endswith("_seconds") else f"{value:.1f}"


def fidelity_proxy(rows: Rows) -> str:
    """The candidates by their rank correlation on each set of runs; then the runs."""
    judged = [row for row in rows if row["metric"] == "rank_correlation"]
    single = [row for row in rows if row["metric"] == "fidelity"]
    sets = list(dict.fromkeys(row["task"] for row in judged))
    found = {(row["task"], row["method"]): row for row in judged}
    names = sorted({row["method"] for row in judged}, key=lambda name: -found["both", name]["value"])
    lines = []
    for name in names:
        cells = [found.get((one, name)) for one in sets]
        lines.append([name, *(f"{one['value']:.2f} ({one['n']} runs)" if one else "–" for one in cells)])
    runs = [
        [
            row["task"],
            f"{row['value']:.2f} ({row['low']:.2f} – {row['high']:.2f})",
            f"{row['noise']:.2f}",
            f"{row['slope']:.2f}",
            f"{row['candidates'][names[0]]:.2f}",
        ]
        for row in sorted(single, key=lambda row: row["value"])
    ]
    first = table(["candidate", *(f"{one} sets" if one == "both" else f"{one} set" for one in sets)], lines)
    return first + "\n\n" + table(["run", "fidelity", "noise", "slope", names[0]], runs)


def plain(rows: Rows) -> str:
    """Every row as it is, with a column for each further field."""
    others = list(dict.fromkeys(key for row in rows for key in row if key not in COMMON))
    lines = [
        [
            *(str(row.get(key, "")) for key in ("task", "method", *others, "metric")),
            f"{row['value']:.4g}" if isinstance(row["value"], int | float) else str(row["value"]),
            f"{row['low']:.4g} – {row['high']:.4g}" if row.get("low") is not None else "",
            str(row.get("n", "")),
        ]
        for row in rows
    ]
    return table(["task", "method", *others, "metric", "value", "low – high", "n"], lines)


LAYOUTS: dict[str, Callable[[Rows], str]] = {
    "detection": detection,
    "one_file": one_file,
    "lds": lds,
    "lds whole": lds_whole,
    "banks": banks,
    "audit_cost": audit_cost,
    "promises": promises,
    "own_evidence": own_evidence,
    "fidelity_proxy": fidelity_proxy,
    "poison": poison,
    "speed": speed,
    "speed_pairs": speed_pairs,
}


if __name__ == "__main__":
    main()
