"""The tables of benchmarks/results/speed.json: against kronfluence, in units of bare passes, and growth."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import Rows, table

GOALS = {
    "mlp_self_influence": 100,
    "convnet_self_influence": 5,
    "transformer_self_influence": 5,
    "mlp_factors": 20,
    "convnet_factors": 3,
    "transformer_factors": 3,
    "mlp_validation_score": 3,
}
AUDITS = {
    "attribute, 1 segment": (1, None),
    "attribute, 3 segments": (3, None),
    "with factors, 1 segment": (1, 1.0),
    "with factors, 3 segments": (3, 1.0),
    "1 segment, a quarter": (1, 0.25),
}
"""Segments, and the share of the rows that eigenvectors are fitted on (None: without factors)."""


def speed(rows: Rows) -> str:
    return "\n\n".join(
        [
            "**Against kronfluence 1.0.1**, influence functions at one checkpoint, the same model, weights and rows, "
            "one thread; ratio = kronfluence ÷ Winnow, median (least – largest) of 5 turns.",
            against_peer(rows),
            "**A whole SOURCE audit**: six checkpoints, self-influence and validation harm, in units of six bare "
            "passes over the same rows; *a quarter* fits eigenvectors on a quarter of the rows.",
            in_passes(rows),
            "**Growth**: an MLP 49-64-10 by rows, all scores at six checkpoints; an MLP d-d-d-10 by width, "
            "self-influence of 512 rows at one checkpoint.",
            by_rows(rows),
            by_width(rows),
        ]
    )


def find(rows: Rows, /, **wanted: Any) -> dict[str, Any] | None:
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), None)


def number(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['value']:.3g}"


def spread(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['value']:.3g} ({row['low']:.3g} – {row['high']:.3g})"


def against_peer(rows: Rows) -> str:
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows if row["method"] == "kronfluence"):
        of_task = [row for row in rows if row["task"] == task]
        ours, theirs = (
            find(of_task, method=method, metric="seconds") for method in ("winnow", "kronfluence")
        )
        difference = find(of_task, metric="max_relative_difference")
        lines.append(
            [
                task,
                str(of_task[0]["rows"]),
                number(ours),
                number(theirs),
                spread(find(of_task, metric="ratio")),
                f"≥ {GOALS[task]}" if task in GOALS else "",
                "" if difference is None else f"{difference['value']:.0e}",
            ]
        )
    return table(["task", "rows", "Winnow, s", "kronfluence, s", "ratio", "goal", "max. difference"], lines)


def in_passes(rows: Rows) -> str:
    audits = [row for row in rows if row["task"] == "source_audit" and row["metric"] == "ratio"]
    lines = []
    for model in dict.fromkeys(row["model"] for row in audits):
        cells = [
            spread(find(audits, model=model, segments=segments, covariance_sample=share))
            for segments, share in AUDITS.values()
        ]
        of_model = find(audits, model=model)
        assert of_model is not None
        lines.append([model, str(of_model["rows"]), *cells])
    return table(["model", "rows", *AUDITS], lines)


def by_rows(rows: Rows) -> str:
    growth = [row for row in rows if row["task"] == "scaling_rows"]
    lines = [
        [
            f"{count:,}",
            number(find(growth, rows=count, metric="seconds")),
            spread(find(growth, rows=count, metric="ratio")),
        ]
        for count in dict.fromkeys(row["rows"] for row in growth)
    ]
    return table(["rows", "seconds", "cost per row, to that of 10,000"], lines)


def by_width(rows: Rows) -> str:
    growth = [row for row in rows if row["task"] == "scaling_width"]
    lines = [
        [
            str(width),
            number(find(growth, width=width, metric="seconds")),
            spread(find(growth, width=width, metric="ratio")),
            number(find(growth, width=width, metric="exponent")),
        ]
        for width in dict.fromkeys(row["width"] for row in growth)
    ]
    return table(["width", "seconds", "to a bare pass", "exponent since 256"], lines)
