"""What the commands share: exit statuses, arguments that several take, `--set`, and how something is printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipeline.config.yaml_text import YAMLError, read_yaml
from pipeline.errors import InputError, WinnowError

if TYPE_CHECKING:
    from flows.terminal import Terminal
    from pipeline.results.result import AuditResult


DONE, FAILED, WRONG, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML config; `winnow init` writes one.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, runs/<name>/<run-id>.")]
Changes = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key: --set detection.max_removed=0.1"),
]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler, tcp://host:port.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


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
