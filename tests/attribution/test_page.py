"""The code of docs/how-to/attribution.md runs with torch, safetensors and what torch requires, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCKER = '''
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec

REQUIRED_BY_TORCH = {
    "filelock", "fsspec", "functorch", "jinja2", "markupsafe", "mpmath", "networkx", "sympy", "torchgen",
    "typing_extensions",
}
ALLOWED = {"pipeline", "torch", "safetensors"} | REQUIRED_BY_TORCH | set(sys.stdlib_module_names)

class OnlyAllowed:
    """Finds other modules nowhere, as if they weren't installed."""

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ALLOWED or top.startswith("_sysconfigdata"):  # named after the platform
            return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not PathFinder] + [OnlyAllowed()]
for name in ("numpy", "pyarrow", "sklearn", "pydantic"):
    assert find_spec(name) is None, name
'''
CHECKS = """
assert scores.harm.shape == scores.self_influence.shape == (600,)
assert scores.scale is not None
assert (worst < 30).float().mean() > 0.6
assert each.influence.shape == (300, 600)
assert torch.allclose(split.token_harm.sum(1), split.harm, rtol=1e-3, atol=1e-6)
assert (split.token_harm[:, :3] == 0).all()
assert apart.influence.shape == (5, 64)
assert coverage(model).share == 1
assert smoothed.harm.isfinite().all()
assert staged.harm.shape == (600,)
assert exact.method == "unrolled" and refined.method == "source_refined"
assert by_windows.method == "unrolled_gauss_newton"
correlation = torch.corrcoef(torch.stack([exact.harm, refined.harm]))[0, 1]
assert correlation > 0.8, correlation
assert ensembled.harm.shape == (600,)
"""


def test_the_pages_code_runs_with_torch_and_safetensors_alone(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "attribution.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    program = tmp_path / "page.py"
    program.write_text(BLOCKER + "\n".join(blocks) + CHECKS, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, program.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Error" not in result.stderr
