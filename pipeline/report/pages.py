"""The Jinja environment of all pages: what a template shows is escaped."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report import svg
from pipeline.text import words
from pipeline.text.arms import ARMS
from pipeline.text.decisions import DECISIONS


def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(svg=svg, words=words, arms=ARMS, decisions=DECISIONS)
    return made
