from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from pipeline.report.pages import environment


def test_what_a_template_shows_is_escaped() -> None:
    shown = (
        environment()
        .get_template("notebook.html.j2")
        .render(title="a & b", lines=["<i>"], columns=["row_key"], rows=[["<script>"]])
    )
    assert "a &amp; b" in shown
    assert "&lt;i&gt;" in shown
    assert "<td>&lt;script&gt;</td>" in shown


def test_what_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        environment().get_template("notebook.html.j2").render(title="a")
