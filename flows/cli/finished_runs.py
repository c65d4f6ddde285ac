"""Commands on runs that are there: `report`, `export`, `runs` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared import DONE, REFUSED, Json, Run, console, finish, print_json


def report(run: Run) -> None:
    """Write the report of a run anew."""
    from pipeline.stages.again import report_again

    print(report_again(run))


def export(
    run: Run,
    decisions: Annotated[
        Path | None,
        typer.Option(help="Decisions by people, CSV or Parquet: detect, verify and export again with them."),
    ] = None,
    proposed: Annotated[
        bool,
        typer.Option("--proposed", help="Export what the rule proposed and verification left for review."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Write the cleaned dataset of a run anew."""
    from flows.stage_summaries import sentence
    from pipeline.export.manifest import AS_GIVEN
    from pipeline.stages.again import export_again, take_decisions

    if decisions is not None:
        from flows.orchestration import run_audit
        from flows.terminal import Terminal

        changes = take_decisions(run, decisions)
        with Terminal(console(as_json)) as terminal:
            result = run_audit(str(run / "config.yaml"), changes, str(run), terminal)
        if not proposed:
            return finish(result, terminal, as_json)
    facts = export_again(run, None, proposed)
    if as_json:
        print_json(facts)
    else:
        print(sentence("export", facts))
        if not (facts["refused"] or facts.get("skipped")):
            print(run / "cleaned")
            if facts.get("as_given"):
                print(run / AS_GIVEN)
    return REFUSED if facts["refused"] else DONE


def runs(
    directory: Annotated[Path, typer.Argument(help="Where the runs are.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List the runs."""
    from pipeline.runs.listing import list_runs

    lines = list_runs(directory)
    if as_json:
        print_json([line.as_dict() for line in lines])
        return
    from flows.tables import print_runs

    print_runs(console(), lines)


def compare(
    first: Run,
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another one.")],
    as_json: Json = False,
) -> None:
    """Compare two finished runs."""
    from pipeline.results.comparison import compare_runs

    found = compare_runs(first, second)
    if as_json:
        print_json(found)
        return
    from flows.tables import print_comparison

    print_comparison(console(), found)
