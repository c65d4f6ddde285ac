"""Refined solves as sums over chunks: several queries at once are solved as each alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from digits_run import digits_config

from pipeline.compute.plan import Plan
from pipeline.compute.refine import refined_query
from pipeline.context import AuditContext
from pipeline.run import RunDirectory, write_text


class Here:
    """Workers that are this process."""

    def run(
        self,
        function: Callable[..., Any],
        tasks: list[tuple[Any, ...]],
        _names: list[str],
        on_done: Callable[[int, Any], None] = lambda place, result: None,
    ) -> list[Any]:
        found = [function(*task) for task in tasks]
        for place, result in enumerate(found):
            on_done(place, result)
        return found


def test_queries_together_are_solved_as_each_alone(detected_run: Path, tmp_path: Path) -> None:
    config = digits_config(attribution__method="source_refined")
    write_text(detected_run / "config.yaml", config.to_yaml())
    context = AuditContext(config, RunDirectory(detected_run), Here())  # type: ignore[arg-type]
    plan = Plan("whole", detected_run, 1)
    filters = plan.query_filters()[0]
    torch.manual_seed(0)
    queries = {name: torch.stack([each, torch.randn_like(each)]) for name, each in filters.items()}
    together = refined_query(context, plan, queries, tmp_path / "both", "both")
    for place in range(2):
        query = {name: each[place] for name, each in queries.items()}
        alone = refined_query(context, plan, query, tmp_path / f"alone-{place}", "alone")
        torch.testing.assert_close(together.alpha[place], alone.alpha[0], rtol=1e-4, atol=0)
        for name, found in alone.filters.items():
            limit = 1e-4 * float(found.abs().max())
            torch.testing.assert_close(together.filters[name][place], found, rtol=0, atol=limit)
