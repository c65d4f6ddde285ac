from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pipeline.attribution

PROGRAM = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pyarrow", "dask", "prefect", "pydantic", "sklearn", "pandas"}:
            raise ModuleNotFoundError(name)
        return None

sys.meta_path.insert(0, Block())
import pipeline.attribution, pipeline.attribution.methods
assert "torch" not in sys.modules
assert all(hasattr(pipeline.attribution, name) for name in pipeline.attribution.__all__)
others = {name.split(".")[1] for name in sys.modules if name.startswith("pipeline.")} - {"attribution"}
assert not others, others
"""


def test_attribution_needs_nothing_of_the_rest() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_no_public_name_is_that_of_a_file() -> None:
    """An import of the file would take the name's place."""
    for name in pipeline.attribution.__all__:
        assert find_spec(f"pipeline.attribution.{name}") is None


def test_a_name_that_is_not_public_is_none_of_the_package() -> None:
    assert not hasattr(pipeline.attribution, "torch")


def test_every_public_name_has_its_type() -> None:
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
