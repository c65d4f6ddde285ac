"""The public names are loaded on first use; what readers of types see is what there is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pipeline.attribution


def test_every_name_is_there_with_its_type() -> None:
    tree = ast.parse(Path(pipeline.attribution.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline")
        for alias in node.names
    }
    assert sorted(typed) == sorted(pipeline.attribution.__all__)
    for name, module in typed.items():
        assert getattr(pipeline.attribution, name) is getattr(sys.modules[module], name)


def test_methods_are_read_without_torch() -> None:
    script = "import sys; from pipeline.attribution.methods import METHODS; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
