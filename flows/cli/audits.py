"""Commands that lead to an audit: `init`, `check`, `audit` and `schedule`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared import (
    DONE,
    INTERRUPTED,
    WRONG,
    Changes,
    Config,
    Json,
    Scheduler,
    console,
    finish,
    parse_changes,
    print_json,
)
from pipeline.config import load_config
from pipeline.errors import InputError


def init(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Files, folders or globs: Parquet, CSV, JSON, …")
    ],
    output: Annotated[
        Path | None, typer.Option(help="The config to write; by default named after the data.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The label column, if it can't be guessed.")] = None,
    validation_is_clean: Annotated[
        bool | None, typer.Option(help="Whether the labels of the validation rows can be trusted.")
    ] = None,
) -> None:
    """Look at files and write a commented config."""
    from pipeline.data.first_look.inspect_files import look
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


def audit(
    config: Config,
    output: Annotated[Path | None, typer.Option(help="The run directory.")] = None,
    changes: Changes = [],  # noqa: B006
    scheduler: Scheduler = None,
    again: Annotated[
        bool, typer.Option("--again", help="A new run also if nothing has changed since the last one.")
    ] = False,
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
            result = orchestration.run_audit(
                str(config), asked, str(output) if output else None, terminal, again
            )
        except KeyboardInterrupt:
            print(terminal.stopped(), file=sys.stderr)
            return INTERRUPTED
    return finish(result, terminal, as_json)


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
