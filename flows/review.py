"""What `winnow review` shows: where a review stands, and what to do next."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from flows.tables import print_columns, print_line
from flows.terminal import Terminal
from pipeline.results.result import AuditResult
from pipeline.reviewing.holdout import HoldoutState
from pipeline.reviewing.review import Review, reviewed_changes
from pipeline.text import words

MOST_ASKED = 200  # in one sheet, unless somebody wants more
STATES = {"holds": "shown", "fails": "not shown", "open": "answers missing"}


def print_review(console: Console, review: Review, run: Path) -> None:
    if review.changed:
        print_line(
            console, f"{words.plural(review.changed, 'earlier answer')} changed: the newer ones count."
        )
    lines = [("candidates", "answers", "wrong", "precision at least", "")]
    for cutoff in review.cutoffs:
        answers = f"{cutoff.answered} of {cutoff.sampled}"
        bound = (
            words.percent(cutoff.bound)
            if cutoff.answered == cutoff.sampled or cutoff.state == "holds"
            else ""
        )
        lines.append(
            (f"top {words.count(cutoff.rows)}", answers, str(cutoff.wrong), bound, STATES[cutoff.state])
        )
    print_columns(console, lines)
    asked = f"{words.percent(review.precision, 0)} (confidence {words.percent(review.confidence, 0)})"
    if review.shown:
        print_line(
            console,
            f"At least {asked} of the {words.count(review.shown)} most suspicious candidates are wrong.",
        )
    else:
        print_line(console, f"A precision of {asked} is not shown for any number of rows.")
    if review.cutoffs[-1].state == "fails":
        print_line(console, "More answers can't extend that: the tests end at the first that fails.")
    for step in _next_steps(review, run):
        print_line(console, step)


def print_holdout(console: Console, state: HoldoutState, run: Path) -> None:
    if state.changed:
        print_line(console, f"{words.plural(state.changed, 'earlier answer')} changed: the newer ones count.")
    print_line(
        console, f"{words.plural(state.answered, 'answer')} about {words.rows(state.rows)} of the holdout."
    )
    if state.share is None:
        print_line(console, "The share of wrong labels takes two answers.")
    else:
        value, low, high = (
            words.percent(each) for each in (state.share.value, state.share.low, state.share.high)
        )
        print_line(console, f"Wrong labels in the holdout: {value} (95 % interval {low} – {high}).")
    if state.open:
        print_line(console, f"{words.rows(state.open)} on the sheets are without an answer.")
    print_line(
        console, f"More answers make the interval narrower: winnow review {run} --holdout {MOST_ASKED // 4}"
    )
    if state.answered:
        print_line(console, f"To judge the arms by these answers as well: winnow review {run} --apply")


def _next_steps(review: Review, run: Path) -> list[str]:
    steps = []
    if review.open:
        command = f"winnow review {run} --sample {min(MOST_ASKED, review.open)}"
        steps.append(f"Up to {words.plural(review.open, 'more answer')} can extend it: {command}")
    if review.answered:
        what = "remove these" if review.shown else "remove the rows that were called wrong, and nothing else"
        steps.append(f"To {what}, and to verify and export again: winnow review {run} --apply")
    return steps


def apply_review(run: Path, terminal: Terminal) -> AuditResult:
    """Detect, verify, export and report again, in the same run, by the answers."""
    from flows.orchestration import run_audit

    return run_audit(str(run / "config.yaml"), reviewed_changes(run), str(run), terminal)
