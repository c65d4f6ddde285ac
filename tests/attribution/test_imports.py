from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pyarrow", "dask", "prefect", "pydantic", "sklearn", "pandas"}:
            raise ModuleNotFoundError(name)
        return None

sys.meta_path.insert(0, Block())
import pipeline.attribution
others = {name.split(".")[1] for name in sys.modules if name.startswith("pipeline.")} - {"attribution"}
assert not others, others
assert all(hasattr(pipeline.attribution, name) for name in pipeline.attribution.__all__)
"""


def test_attribution_needs_nothing_of_the_rest() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
