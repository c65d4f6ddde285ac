from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.attribution.methods import METHODS
from pipeline.config import Attribution
from pipeline.report.method import attribution, method_line


def test_what_was_used_is_said_and_whether_its_scale_is_known() -> None:
    factors = {"method": "source", "checkpoints": 6, "segments": 3, "layers": 2, "alpha": None}
    plain = attribution({}, factors, {})
    assert (
        method_line(plain) == "SOURCE, 6 checkpoints, 3 segments, 2 layers, the scale of harm is uncalibrated"
    )
    train = {"optimizer": "adamw", "recorded_in": "mine"}
    made = attribution(train, factors | {"method": "fast_source", "alpha": 0.4321}, {"ensemble": 4})
    said = method_line(made)
    assert said.startswith(METHODS["fast_source"].title)
    for part in ("trained by adamw", "checkpoints recorded in mine", "mean of 4 trainings", "α = 0.43"):
        assert part in said


def test_a_refined_solve_is_said_with_its_settings() -> None:
    used = {"prior": 0.5, "rows": 1024, "iterations": 1, "scale_rows": 1024, "seed": 0}
    factors = {"method": "source_refined", "checkpoints": 6, "segments": 1, "layers": 3, "alpha": 0.81}
    made = attribution({}, factors | {"refined": used}, {})
    assert made["refined"] == {"prior": 0.5, "rows": 1024, "iterations": 1}
    wanted = f"{METHODS['source_refined'].title} of 1,024 rows in 1 iteration with γ = 0.5, 6 checkpoints"
    assert method_line(made).startswith(wanted)
    assert method_line(made).endswith("α = 0.81")


@pytest.mark.parametrize("name", METHODS)
def test_the_config_takes_and_describes_every_method_of_audits_and_no_other(name: str) -> None:
    if METHODS[name].in_audits:
        assert Attribution(method=name).method == name
        assert f"- `{name}`: {METHODS[name].in_audits}" in (Attribution.__doc__ or "")
    else:
        with pytest.raises(ValidationError, match=f"'{name}' is no method of audits"):
            Attribution(method=name)
