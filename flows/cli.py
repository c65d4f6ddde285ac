"""The command `winnow`: each command is a thin call of a public function.

What takes long to import is imported inside the commands.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.exceptions import TyperException

from pipeline import __version__
from pipeline.config import load_config
from pipeline.config.yaml_text import YAMLError, read_yaml
from pipeline.errors import InputError, WinnowError

if TYPE_CHECKING:
    from flows.terminal import Terminal
    from pipeline.results.result import AuditResult

DONE, FAILED, WRONG, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="winnow",
    help="Clean labelled datasets by training-data attribution, and prove on held-out data that it helped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML config; `winnow init` writes one.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, runs/<name>/<run-id>.")]
Changes = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key: --set detection.max_removed=0.1"),
]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler, tcp://host:port.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


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


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
def init(
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="Parquet files, folders or globs.")],
    output: Annotated[
        Path | None, typer.Option(help="The config to write; by default named after the data.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The label column, if it can't be guessed.")] = None,
    validation_is_clean: Annotated[
        bool | None, typer.Option(help="Whether the labels of the validation rows can be trusted.")
    ] = None,
) -> None:
    """Look at Parquet files and write a commented config."""
    from pipeline.data.look import look
    from pipeline.runs.directory import write_text
    from pipeline.text.words import plural

    proposal = look(data, label=label, validation_is_clean=validation_is_clean)
    files, rows = len(proposal.shards), sum(shard.rows for shard in proposal.shards)
    columns = len(proposal.shards[0].schema)
    print(f"Looked at {plural(files, 'file')}, {plural(rows, 'row')}, {plural(columns, 'column')}.")
    for name, text in proposal.describe():
        print(f"  {name:<11}{text}" if name else text)
    if proposal.validation_is_clean is None and sys.stdin.isatty():
        answer = typer.confirm("Are the labels of the validation rows known to be right?", default=False)
        proposal = dataclasses.replace(proposal, validation_is_clean=answer)
    path = output or Path(f"{proposal.name}.yaml")
    if path.exists():
        raise InputError(f"{path}: exists already", "Choose another name by --output, or remove the file.")
    try:
        write_text(path, proposal.to_yaml())
    except OSError as error:
        raise InputError(
            f"{path}: can't be written to ({error.strerror})", "Choose another --output."
        ) from None
    print(f"Wrote {path} (every choice above is in it, with a comment). Next: winnow check {path}")


@app.command()
def check(config: Config, changes: Changes = [], as_json: Json = False) -> int:  # noqa: B006
    """Say what an audit will take, need and find."""
    from flows.tables import print_layers, print_preflight
    from flows.terminal import Terminal
    from pipeline.preflight.check import check as preflight

    with Terminal(console(as_json)) as terminal:
        terminal.begins("check")
        found = preflight(load_config(config, parse_changes(changes)), terminal.progress)
    if as_json:
        print_json(found.as_dict())
    else:
        print_preflight(terminal.console, found.lines)
        print_layers(terminal.console, found.layers)
        print(
            f"Nothing stands in the way. Next: winnow audit {config}" if found.ok else "Not ready: see above."
        )
    return DONE if found.ok else WRONG


@app.command()
def audit(
    config: Config,
    output: Annotated[Path | None, typer.Option(help="The run directory.")] = None,
    changes: Changes = [],  # noqa: B006
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> int:
    """Audit a dataset and write the cleaned one."""
    asked = parse_changes(changes) | ({"compute.scheduler": scheduler} if scheduler else {})
    load_config(config, asked)  # what is wrong with it is said before anything starts
    from flows import orchestration

    orchestration.begin()  # a server starts while the rest is imported
    from flows.terminal import Terminal

    with Terminal(console(as_json)) as terminal:
        try:
            result = orchestration.run_audit(str(config), asked, str(output) if output else None, terminal)
        except KeyboardInterrupt:
            print(terminal.stopped(), file=sys.stderr)
            return INTERRUPTED
    return finish(result, terminal, as_json)


@app.command()
def report(run: Run) -> None:
    """Write the report of a run anew."""
    from pipeline.stages.again import report_again

    print(report_again(run))


@app.command()
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
    from flows.sentences import sentence
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
    return REFUSED if facts["refused"] else DONE


@app.command()
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
        return ask_holdout(run, holdout, sheet, as_json)
    if answers is not None and is_holdout_sheet(answers):
        return take_holdout(run, answers, as_json)
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


def ask_holdout(run: Path, sample: int, sheet: Path | None, as_json: bool) -> int:
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


def take_holdout(run: Path, answers: Path, as_json: bool) -> int:
    """Keep the answers about holdout rows and say what they show."""
    from flows.review import print_holdout
    from pipeline.reviewing.holdout import take_holdout_answers

    state = take_holdout_answers(run, answers)
    if as_json:
        print_json(state.as_dict())
    else:
        print_holdout(console(), state, run)
    return DONE


@app.command()
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


@app.command()
def lds(
    source: Annotated[
        Path, typer.Argument(metavar="CONFIG|RUN", help="A config, whose model is trained first, or a run.")
    ],
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
    as_json: Json = False,
) -> int:
    """Measure how faithful attribution is on your data: retrain on random subsets and compare."""
    from flows.lds import print_lds
    from flows.terminal import Terminal
    from pipeline.faithfulness.measure import Plan
    from pipeline.faithfulness.measure import lds as measure

    named = [name.strip() for name in methods.split(",") if name.strip()]
    wanted = Plan(named, masks, retrainings, removed, queries)
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


@app.command()
def schedule(
    config: Config,
    cron: Annotated[str, typer.Option(help='When, as a cron expression: "0 3 * * 1" is Monday at 3.')],
    timezone: Annotated[
        str | None, typer.Option(help="Of the cron expression; by default this machine's.")
    ] = None,
    changes: Changes = [],  # noqa: B006
) -> None:
    """Run an audit by the clock (needs the extra flows)."""
    from flows.orchestration import require_prefect

    require_prefect("winnow schedule")
    from flows.schedule import plan, serve

    planned = plan(config, cron, timezone, parse_changes(changes))
    print(planned.describe(), flush=True)
    serve(planned)


@app.command()
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


@app.command()
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


def finish(result: AuditResult, terminal: Terminal, as_json: bool) -> int:
    """Say what an audit found; the exit status."""
    if as_json:
        print_json(result.summary | {"run": str(result.run.path), "refused": result.refused})
    else:
        terminal.result(result)
    return REFUSED if result.refused else DONE


def parse_changes(texts: list[str]) -> dict[str, Any]:
    """`["a.b=3"]` → `{"a.b": 3}`; values are YAML.

    Raises InputError for a text without `=` or with a value that is not YAML.
    """
    changes = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"--set {text}: no value", "Write --set section.key=value.")
        try:
            changes[key] = read_yaml(value)
        except YAMLError:
            raise InputError(
                f"--set {text}: the value is not valid YAML", "Quote it: --set 'key=\"value\"'."
            ) from None
    return changes


def console(as_json: bool = False) -> Console:
    """Where people look; with --json that is stderr, since stdout is for the document."""
    return Console(stderr=as_json, highlight=False)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, allow_nan=False, default=str))


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


def explain(error: Exception) -> int:
    """Print an error for a person; returns the exit status."""
    message, hint = getattr(error, "message", None), getattr(error, "hint", None)
    if message is None:
        first = str(error).splitlines()[0] if str(error) else ""
        message, hint = (
            f"{type(error).__name__}: {first}",
            "this is a bug; run again with --verbose and report it",
        )
    print_error(message, hint)
    return error.exit_status if isinstance(error, WinnowError) else FAILED


def print_error(message: str, hint: str | None) -> None:
    lines = [f"error: {message}", *(f"  {line.strip()}" for line in (hint or "").splitlines())]
    print("\n".join(lines), file=sys.stderr)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ✓ and → still gets the rest
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
