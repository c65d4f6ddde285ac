"""Write the pages of docs/reference/ that are made from the code: the config, the API and the command line.

python -m benchmarks.reference
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

import pipeline
import pipeline.attribution
from flows.cli import app
from pipeline.config import reference
from pipeline.runs.directory import write_text

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MADE = "This page is made from the code by `python -m benchmarks.reference`."
API_HEAD = f"""\
# The public names

This page lists the names that may be imported, each with its signature and the first line of its docstring.
`help(NAME)` says the rest. Other names may change without notice. {MADE}
"""
COMMANDS_HEAD = f"""\
# The command line

`winnow COMMAND --help` says the same. {MADE}

`winnow --verbose COMMAND …` shows tracebacks and Prefect's log. A command that finds something wrong says so in words
and ends with a status of its own.

## Exit statuses

| status | meaning |
|---|---|
| 0 | done |
| 1 | failed on the way (the same command goes on) |
| 2 | wrong usage, config or data |
| 3 | the verification gate refused the export |
| 130 | stopped by Ctrl-C |
"""
PACKAGES = (
    (pipeline, "Audits. These names are loaded on first use."),
    (
        pipeline.attribution,
        "Attribution in your own training loop, with torch and safetensors alone. "
        "[Attribution as a library](../how-to/attribution.md) shows how the names work together, and "
        "[attribution](attribution.md) says what the numbers are.",
    ),
)


def main() -> None:
    for name, render in PAGES.items():
        write_text(FOLDER / name, render())
        print(FOLDER / name)


def api() -> str:
    """Every public name of `pipeline` and `pipeline.attribution`."""
    parts = [API_HEAD]
    for package, about in PACKAGES:
        parts.append(f"## {package.__name__}\n\n{about}\n")
        for name in sorted(package.__all__, key=str.lower):
            thing = getattr(package, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                parts.append(f"### {name}\n\n```\n{name}{signature(thing)}\n```\n\n{first_sentence(thing)}\n")
            else:
                shown = f" = {type_name(thing)}" if callable(thing) else f": {type(thing).__name__}"
                parts.append(f"### {name}\n\n```\n{name}{shown}\n```\n")
    return "\n".join(parts)


def signature(thing: Callable[..., Any]) -> str:
    """Parameters with their types and defaults, as they stand in the code; of an exception and a config nothing."""
    if isinstance(thing, type) and issubclass(thing, BaseException | BaseModel):
        return ""
    found = inspect.signature(thing)
    words = list(parameters(found, private=not isinstance(thing, type)))
    back = (
        "" if isinstance(thing, type) or found.return_annotation is found.empty else found.return_annotation
    )
    arrow = f" -> {type_name(back)}" if back else ""
    line = f"({', '.join(words)}){arrow}"
    return line if len(line) < 90 else "(\n" + "".join(f"    {word},\n" for word in words) + f"){arrow}"


def parameters(found: inspect.Signature, private: bool) -> Iterator[str]:
    """Every parameter as it would be written, with the bare star before those that are given by name.

    private: whether those with a leading underscore are among them; a class keeps them to itself.
    """
    starred = False
    for each in found.parameters.values():
        if each.name.startswith("_") and not private:
            continue
        starred |= each.kind is each.VAR_POSITIONAL
        if each.kind is each.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        mark = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        annotation = "" if each.annotation is each.empty else f": {type_name(each.annotation)}"
        equals = " = " if annotation else "="
        default = "" if each.default is each.empty else f"{equals}{value_name(each.default)}"
        yield f"{mark}{each.name}{annotation}{default}"


def type_name(annotation: Any) -> str:
    """An annotation as the code has it."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def value_name(value: Any) -> str:
    """A default as it would be written; dots for what has no name."""
    shown = getattr(value, "__name__", None) or repr(value)
    return "…" if shown.startswith("<") else shown


def first_sentence(thing: Any) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def command_line() -> str:
    """Every command with its arguments and options."""
    parts = [COMMANDS_HEAD]
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [each for each in command.params if each not in arguments]
        usage = " ".join(["winnow", name, *(names(each)[0] for each in arguments)])
        parts.append(f"## {name}\n\n`{usage}`: {command.help}\n")
        lines = [option_line(each) for each in (*arguments, *options)]
        if lines:
            parts.append("\n".join(["| | | default |", "|---|---|---|", *lines]) + "\n")
    return "\n".join(parts)


def option_line(parameter: Any) -> str:
    """A line of the table: how it is written, what it means, and its default."""
    written = " / ".join(names(parameter)).replace("|", "\\|")
    default = parameter.default
    if parameter.required:
        shown = "**needed**"
    else:
        shown = f"`{default}`" if default and not callable(default) else ""
    return f"| `{written}` | {parameter.help or ''} | {shown} |"


def names(parameter: Any) -> list[str]:
    """How an argument or option is written."""
    if parameter.param_type_name == "argument":
        return [parameter.metavar or parameter.name.upper()]
    return [*parameter.opts, *parameter.secondary_opts]


PAGES: dict[str, Callable[[], str]] = {
    Path(reference.PAGE).name: reference.render,
    "api.md": api,
    "command-line.md": command_line,
}


if __name__ == "__main__":
    main()
