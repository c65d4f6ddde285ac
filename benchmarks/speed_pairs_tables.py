"""The table of benchmarks/results/speed_pairs.json: scores of single queries against kronfluence."""

from __future__ import annotations

from benchmarks.markdown import Rows, table
from benchmarks.speed_tables import find, number, spread

GOAL = 2
_NAMES = {"mlp": "MLP", "convnet": "small ResNet", "transformer": "small ViT"}


def speed_pairs(rows: Rows) -> str:
    lines = []
    for task, count in dict.fromkeys((row["task"], row["rows"]) for row in rows):
        mine = [row for row in rows if row["task"] == task and row["rows"] == count]
        difference = find(mine, metric="max_relative_difference")
        seconds, peaks = (
            [number(find(mine, method=side, metric=metric)) for side in ("winnow", "kronfluence")]
            for metric in ("seconds", "peak_mb")
        )
        lines.append(
            [
                _NAMES[task.removeprefix("pairs_")],
                f"{count:,} × {mine[0]['queries']}",
                *seconds,
                spread(find(mine, metric="ratio")),
                f"≥ {GOAL}",
                *(f"{float(each):,.0f}" if each else "" for each in peaks),
                "" if difference is None else f"{difference['value']:.0e}",
            ]
        )
    heads = ["model", "rows × queries", "Winnow, s", "kronfluence, s", "ratio", "goal"]
    return table([*heads, "Winnow, MB", "kronfluence, MB", "max. difference"], lines)
