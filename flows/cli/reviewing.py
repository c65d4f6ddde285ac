"""The command `review`: sheets for people, and their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared import DONE, Json, Run, console, finish, print_json
from pipeline.errors import InputError


def review(
    run: Run,
    sample: Annotated[
        int | None, typer.Option(help="Write a sheet of at most so many rows to answer for.")
    ] = None,
    holdout: Annotated[
        int | None, typer.Option(help="Write a sheet of so many holdout rows whose answers decide the most.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="The sheet to write, .csv or .parquet; by default review/sheet-N.csv.")
    ] = None,
    answers: Annotated[Path | None, typer.Option(help="A filled sheet: keep its answers.")] = None,
    precision: Annotated[
        float | None, typer.Option(help="To be shown; by default detection.precision of the run.")
    ] = None,
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Remove what the answers show to be wrong; verify and export again."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Ask a person about a sample of the flagged rows, to state their precision."""
    from flows.review import apply_review, print_review
    from flows.terminal import Terminal
    from pipeline.reviewing.holdout import is_holdout_sheet
    from pipeline.reviewing.review import review_state, take_answers, write_sheet
    from pipeline.text import words

    asking = [name for name, given in (("--sample", sample), ("--holdout", holdout)) if given is not None]
    if asking and (answers is not None or apply or len(asking) > 1):
        raise InputError(f"{asking[0]} goes alone", "Take the answers first, then ask for another sample.")
    if holdout is not None:
        return _ask_holdout(run, holdout, sheet, as_json)
    if answers is not None and is_holdout_sheet(answers):
        return _take_holdout(run, answers, as_json)
    if sample is not None:
        path, rows = write_sheet(run, sample, sheet, precision)
        if as_json:
            print_json({"sheet": path, "rows": rows})
        elif path is None:
            print(f"Nothing is left to ask: winnow review {run} says what the answers show.")
        else:
            print(f"Wrote {path}: {words.rows(rows)}. Write wrong, right or unsure into the column verdict.")
            print(f"Next: winnow review {run} --answers {path}")
        return DONE
    state = take_answers(run, answers) if answers is not None else review_state(run)
    if as_json and not apply:
        print_json(state.as_dict())
    elif not as_json:
        print_review(console(), state, run)
    if not apply:
        return DONE
    with Terminal(console(as_json)) as terminal:
        result = apply_review(run, terminal)
    return finish(result, terminal, as_json)


def _ask_holdout(run: Path, sample: int, sheet: Path | None, as_json: bool) -> int:
    """Write a sheet of holdout rows."""
    from pipeline.reviewing.holdout import write_holdout_sheet
    from pipeline.text import words

    path, rows = write_holdout_sheet(run, sample, sheet)
    if as_json:
        print_json({"sheet": path, "rows": rows})
    elif path is None:
        print("All holdout rows have been asked about.")
    else:
        print(
            f"Wrote {path}: {words.rows(rows)} of the holdout. Write wrong, right or unsure into the column verdict,"
        )
        print(
            "and the right label into the column label where you know it. Nothing is trained on the answers."
        )
        print(f"Next: winnow review {run} --answers {path}")
    return DONE


def _take_holdout(run: Path, answers: Path, as_json: bool) -> int:
    """Keep the answers about holdout rows and say what they show."""
    from flows.review import print_holdout
    from pipeline.reviewing.holdout import take_holdout_answers

    state = take_holdout_answers(run, answers)
    if as_json:
        print_json(state.as_dict())
    else:
        print_holdout(console(), state, run)
    return DONE
