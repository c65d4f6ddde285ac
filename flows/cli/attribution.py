"""Commands about the attribution itself: `trace` and `lds`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared import DONE, INTERRUPTED, Changes, Json, Run, console, parse_changes, print_json
from pipeline.config import load_config
from pipeline.errors import InputError


def trace(
    run: Run,
    queries: Annotated[Path, typer.Option(metavar="ROWS", help="Parquet with the run's feature columns.")],
    top: Annotated[int, typer.Option(help="Rows for and rows against each query.")] = 20,
    backdoor: Annotated[
        bool, typer.Option("--backdoor", help="Look for a trigger that the queries share.")
    ] = False,
    refined: Annotated[
        bool | None,
        typer.Option(
            "--refined/--plain",
            help="Solve for every query: better and in nats, slower; by default where the run's method is "
            "source_refined.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write; by default RUN/trace/<name of ROWS>.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which training rows are behind some predictions."""
    from flows import trace as tracing
    from flows.terminal import Terminal
    from pipeline.trace.trace import trace as trace_queries

    with Terminal(console(as_json)) as terminal:
        terminal.begins("trace")
        found = trace_queries(run, queries, top, backdoor, refined, output, terminal.progress)
    if as_json:
        print_json(tracing.as_json(found))
    else:
        tracing.print_trace(terminal.console, found)


def lds(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG|RUN]", help="A config, whose model is trained first, or a run; not with --bank."
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Of attribution, separated by commas.")
    ] = "source,influence,tracin,graddot",
    masks: Annotated[int, typer.Option(help="Random subsets.")] = 50,
    retrainings: Annotated[int, typer.Option(help="Of each subset; 2 show how noisy they are.")] = 2,
    removed: Annotated[float, typer.Option(help="Share of the rows that a subset lacks.")] = 0.5,
    queries: Annotated[int, typer.Option(help="Single validation rows that are asked about.")] = 50,
    output: Annotated[
        Path | None, typer.Option(help="Where to write; by default RUN/lds or runs/<name>/lds.")
    ] = None,
    changes: Changes = [],  # noqa: B006
    bank: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A truth bank: score attributions on it, without retraining."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --bank: .npy or Parquet, rows by queries; higher where the row helps the query.",
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --bank: your training rows, to compare with the bank's."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Measure how faithful attribution is: retrain on random subsets and compare, or take a truth bank."""
    if bank is not None:
        return _score_bank(bank, scores, rows, source, as_json)
    if scores is not None or rows is not None:
        raise InputError("--scores and --rows go with --bank, and no bank is given", "Name it: --bank FILE.")
    if source is None:
        raise InputError("neither a config, a run nor a bank is given", "`winnow runs` lists the runs.")
    from flows.lds import print_lds
    from flows.terminal import Terminal
    from pipeline.faithfulness.measure import FaithfulnessPlan
    from pipeline.faithfulness.measure import lds as measure

    named = [name.strip() for name in methods.split(",") if name.strip()]
    wanted = FaithfulnessPlan(named, masks, retrainings, removed, queries)
    if not source.exists():
        raise InputError(f"{source}: no such config file or run", "`winnow runs` lists the runs.")
    if changes and source.is_dir():
        raise InputError("--set goes with a config, and a run is given", "A run has a config of its own.")
    given = source if source.is_dir() else load_config(source, parse_changes(changes))
    with Terminal(console(as_json)) as terminal:
        terminal.begins("lds")
        try:
            found, folder = measure(given, wanted, output, terminal.progress, terminal.console.print)
        except KeyboardInterrupt:
            print(terminal.stopped(), file=sys.stderr)
            return INTERRUPTED
    if as_json:
        print_json(found | {"folder": str(folder)})
    else:
        print_lds(terminal.console, found, folder)
    return DONE


def _score_bank(
    bank: Path, scores: Path | None, rows: Path | None, source: Path | None, as_json: bool
) -> int:
    from flows.lds import print_bank
    from pipeline.faithfulness.bank_scores import lds_of_bank

    if source is not None:
        raise InputError("--bank goes without a config or a run", f"Leave out {source}.")
    found = lds_of_bank(bank, scores, rows)
    if as_json:
        print_json(found)
    else:
        print_bank(console(), found)
    return DONE
