"""What a person sees while an audit runs: a line per finished stage, a bar for the running one, a box."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from flows.stage_summaries import sentence
from pipeline.export.manifest import AS_GIVEN
from pipeline.report.advice import states_precision
from pipeline.report.summary import headline
from pipeline.results.result import AuditResult
from pipeline.runs.directory import RunDirectory
from pipeline.text import words
from pipeline.text.decisions import CHANGED, FLAGGED

WIDTH = 92
NAME_WIDTH = 12
BAR_WIDTH = 28


class Terminal:
    """Follows an audit on a console (a `pipeline.runs.watcher.Watcher`); where that is no terminal, it writes finished
    lines only."""

    def __init__(self, console: Console):
        self.console = console
        self.running: Running | None = None
        self.worked = False
        """Whether a stage has run; else all of them were done before."""
        self._live: Live | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_live()

    def opened(self, run: RunDirectory) -> None: ...

    def begins(self, stage: str) -> None:
        self._stop_live()
        self.running = Running(stage)
        if self.console.is_terminal:
            self._live = Live(
                self.running,
                console=self.console,
                transient=True,
                refresh_per_second=8,
                redirect_stdout=False,
            )
            self._live.start()

    def progress(self, what: str, done: int, total: int, unit: str) -> None:
        if self.running is not None:
            self.running.update(what, done, total, unit)

    def fails(self, stage: str, error: Exception) -> None:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        self._print(f"! {stage:<{NAME_WIDTH}}{first}; trying again")

    def ends(self, stage: str, facts: dict[str, Any], seconds: float, before: bool) -> None:
        self._stop_live()
        self.running = None
        self.worked |= not before
        text = "(done before)" if before else sentence(stage, facts)
        line = f"✓ {stage:<{NAME_WIDTH}}{text}"
        took = "" if before else words.duration(seconds)
        self._print(f"{line:<{WIDTH - len(took) - 2}}  {took}".rstrip())

    def stopped(self) -> str:
        """One sentence for somebody who has just pressed Ctrl-C; nothing is shown as running any more."""
        self._stop_live()
        if self.running is None:
            return "stopped. The same command goes on from here."
        return f"stopped in {self.running.sentence()}. The same command goes on from here."

    def result(self, result: AuditResult) -> None:
        """The box with the verdict, and where things are."""
        if not self.worked:
            self._print(f"Nothing has changed since {result.run.path} was audited: there was nothing to do.")
        self.box(f"{result.summary['name']} / {result.run.run_id}", headline(result.summary))
        places = []
        if result.refused:
            places.append(("cleaned dataset", "not written: the verification gate refused it"))
        elif not result.summary["export"].get("skipped"):
            changed = any(result.summary["decisions"][name] for name in CHANGED)
            beside = "  (quarantine/ beside it has what was taken out)" if changed else ""
            places.append(("cleaned dataset", f"{result.paths['cleaned']}{beside}"))
            if AS_GIVEN in result.paths:
                places.append(("in its own format", str(result.paths[AS_GIVEN])))
        places.append(("report", str(result.paths["report"])))
        if _asks_for_review(result.summary):
            places.append(("state the precision", f"winnow review {result.run.path} --sample 200"))
        self.pairs(places)

    def box(self, title: str, lines: list[str]) -> None:
        body = Text("\n".join(lines))
        panel = Panel(body, title=Text(title), title_align="left", expand=False, padding=(0, 1))
        self.console.print(panel, width=min(self.console.width, WIDTH + 8))

    def pairs(self, pairs: list[tuple[str, str]]) -> None:
        """Lines of a name and a text, the texts under each other."""
        width = max(len(name) for name, _ in pairs) + 3
        for name, text in pairs:
            self._print(f"{name:<{width}}{text}")

    def _print(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _asks_for_review(summary: dict[str, Any]) -> bool:
    """Rows are flagged, and how many of them are wrong is not known."""
    flagged = any(summary["decisions"][name] for name in FLAGGED)
    return flagged and not summary["export"].get("skipped") and not states_precision(summary)


class Running:
    """The stage that is running: its progress, its speed, and how they look."""

    def __init__(self, stage: str):
        self.stage = stage
        self.what, self.done, self.total, self.unit = stage, 0, 0, ""
        self._begin, self._first = time.monotonic(), 0
        self._spinner = Spinner("dots")

    def update(self, what: str, done: int, total: int, unit: str) -> None:
        if what != self.what or self.total == 0:
            # Earlier work may count as done already; speed is about what comes after.
            self._begin, self._first = time.monotonic(), done
        self.what, self.done, self.total, self.unit = what, done, total, unit

    def sentence(self) -> str:
        if not self.total:
            return self.stage
        return f"{self.stage}, {words.count(self.done)} of {words.count(self.total)} {self.unit} done"

    def __rich__(self) -> Table:
        line = Table.grid(padding=(0, 1))
        cells: list[Any] = [self._spinner, Text(f"{self.stage:<{NAME_WIDTH - 1}}")]
        if self.total:
            cells.append(ProgressBar(total=self.total, completed=self.done, width=BAR_WIDTH))
        cells.append(Text(self.numbers(), no_wrap=True))
        line.add_row(*cells)
        return line

    def numbers(self) -> str:
        """`21,504 of 32,960 rows · 190 rows/s · 1m 00s left`."""
        elapsed = time.monotonic() - self._begin
        if not self.total:
            return words.duration(elapsed)
        parts = [f"{words.count(self.done)} of {words.count(self.total)} {self.unit}"]
        if self.what != self.stage:
            parts.insert(0, self.what)
        gained = self.done - self._first
        if gained > 0 and elapsed > 1:
            speed = gained / elapsed
            if speed >= 1:
                parts.append(f"{words.count(round(speed))} {self.unit}/s")
            parts.append(f"{words.duration((self.total - self.done) / speed)} left")
        return " · ".join(parts)
