"""The command `winnow`: each command is a thin call of a public function.

What takes long to import is imported inside the commands.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from typing import Annotated

import typer
from typer.exceptions import TyperException

from flows.cli.attribution import lds, trace
from flows.cli.audits import audit, check, init, schedule
from flows.cli.finished_runs import compare, export, report, runs
from flows.cli.reviewing import review
from flows.cli.shared import DONE, WRONG, explain, print_error
from pipeline import __version__

app = typer.Typer(
    name="winnow",
    help="Clean labelled datasets by training-data attribution, and prove on held-out data that it helped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def options(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks and Prefect's log.")] = False,
) -> None:
    if not verbose and context.invoked_subcommand != "schedule":  # which has nothing else to show
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        show_what_was_found_damaged()


def show_what_was_found_damaged() -> None:
    """On stderr, as Python does where nobody handles a warning: Prefect's handler is silent now."""
    if logging.lastResort is not None:
        logging.getLogger("winnow").handlers = [logging.lastResort]


def version() -> None:
    """Print the version."""
    print(__version__)


for command in (
    version,
    init,
    check,
    audit,
    report,
    export,
    review,
    trace,
    lds,
    schedule,
    runs,
    compare,
):
    app.command()(command)


def run(arguments: list[str]) -> int:
    """Run one command and return the exit status: 0 done, 1 failed, 2 wrong usage, config or data, 3 export
    refused, 130 interrupted. Errors go to stderr in words; the traceback only with --verbose."""
    arguments = arguments or ["--help"]
    verbose = "--verbose" in arguments
    if verbose:  # it may stand anywhere
        arguments = ["--verbose", *(each for each in arguments if each != "--verbose")]
    try:
        return int(app(arguments, standalone_mode=False) or DONE)
    except TyperException as error:
        print_error(error.format_message(), "`winnow --help` and `winnow COMMAND --help` say how it is used.")
        return WRONG
    except Exception as error:
        if verbose:
            traceback.print_exc()
        return explain(error)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ✓ and → still gets the rest
    sys.exit(run(sys.argv[1:]))
