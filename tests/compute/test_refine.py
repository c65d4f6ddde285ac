"""Refined solves as sums over chunks: several queries at once are solved as each alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_run import digits_config

from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_text
from pipeline.scoring.plan import ScoringPlan
from pipeline.scoring.refine import refined_query
from pipeline.workers.worker import run_data


class Interrupted(Exception):
    pass


class Here:
    """Workers that are this process, interrupted after `left` tasks."""

    left = 1000

    def run(
        self,
        function: Callable[..., Any],
        tasks: list[tuple[Any, ...]],
        _names: list[str],
        on_done: Callable[[int, Any], None] = lambda place, result: None,
    ) -> list[Any]:
        found = []
        for task in tasks:
            if self.left == 0:
                raise Interrupted
            self.left -= 1
            found.append(function(*task))
        for place, result in enumerate(found):
            on_done(place, result)
        return found


def refined_plan(run: Path) -> tuple[ScoringPlan, AuditContext]:
    config = digits_config(attribution__method="source_refined")
    write_text(run / "config.yaml", config.to_yaml())
    context = AuditContext(config, RunDirectory(run), Here())  # type: ignore[arg-type]
    return ScoringPlan("whole", run, 1), context


def test_queries_together_are_solved_as_each_alone(detected_run: Path, tmp_path: Path) -> None:
    plan, context = refined_plan(detected_run)
    filters = plan.query_filters()[0]
    torch.manual_seed(0)
    queries = {name: torch.stack([each, torch.randn_like(each)]) for name, each in filters.items()}
    together = refined_query(context, plan, 0, queries, tmp_path / "both", "both")
    for place in range(2):
        query = {name: each[place] for name, each in queries.items()}
        alone = refined_query(context, plan, 0, query, tmp_path / f"alone-{place}", "alone")
        torch.testing.assert_close(together.alpha[place], alone.alpha[0], rtol=1e-4, atol=0)
        for name, found in alone.filters.items():
            limit = 1e-4 * float(found.abs().max())
            torch.testing.assert_close(together.filters[name][place], found, rtol=0, atol=limit)


def test_an_interrupted_solve_goes_on_with_its_products(
    detected_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, context = refined_plan(detected_run)
    query = plan.query_filters()[0]
    whole = refined_query(context, plan, 0, query, tmp_path / "whole", "whole")
    workers = context.workers
    product = len(run_data(detected_run).chunks("train")) + 1  # its chunks and their sum
    monkeypatch.setattr(workers, "left", 2 * product - 1)
    with pytest.raises(Interrupted):
        refined_query(context, plan, 0, query, tmp_path / "interrupted", "interrupted")
    assert len(list((tmp_path / "interrupted").glob("product-*.safetensors"))) == 1
    monkeypatch.setattr(workers, "left", (8 + 1) * product - (2 * product - 1))  # iterations and scale
    again = refined_query(context, plan, 0, query, tmp_path / "interrupted", "interrupted")
    assert torch.equal(again.alpha, whole.alpha)
    assert all(torch.equal(again.filters[name], found) for name, found in whole.filters.items())
