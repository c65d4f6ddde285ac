"""Sums over the train rows on the workers, chunk by chunk; curvature is fitted by these passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from safetensors.torch import load_file

from pipeline.attribution.curvature.fit import Tensors
from pipeline.attribution.curvature.passes import FactorTask, KeptGradients
from pipeline.attribution.rows.batch import Batch
from pipeline.data.encoded import Chunk
from pipeline.runs.context import AuditContext
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.plan import ScoringPlan, attribution_model, batches, chunk_groups
from pipeline.workers.kept import keep_tensors
from pipeline.workers.sums import summed
from pipeline.workers.worker import run_budgets, run_config, run_data, run_objective

Leaf = Callable[..., Tensors]


@dataclass(frozen=True)
class ChunksPart:
    """The rows of some chunks on this worker; implements `Part` of `pipeline.attribution.curvature.fit`."""

    plan: ScoringPlan
    chunks: Sequence[Chunk] = ()
    kept: KeptGradients = field(default_factory=KeptGradients)

    @cached_property
    def tasks(self) -> list[FactorTask]:
        path = self.plan.run_path
        model, config = attribution_model(path), run_config(path).attribution

        def load(point: int) -> None:
            self.plan.load_checkpoint(model, point)

        return [
            FactorTask(
                model,
                load,
                run_objective(path),
                segment.points,
                config.seed,
                config.fisher,
                segment.preconditioners,
                run_budgets(path).group,
                config.widest_outputs,
            )
            for segment in self.plan.planned()
        ]

    @property
    def sample(self) -> float:
        return run_config(self.plan.run_path).attribution.covariance_sample

    @property
    def widest(self) -> int | None:
        return run_config(self.plan.run_path).attribution.widest_block

    def rows(self, place: int) -> Iterator[Batch]:
        """Yield the rows, which are the same in every segment because the training of an audit has one stage."""
        del place
        return rows_of(self.plan, self.chunks)


@dataclass(frozen=True)
class WorkerSums:
    """Sums over all train rows; implements `RowSums` of `pipeline.attribution.curvature.fit`. Every step writes a file.

    Attributes:
        context: of the audit.
        plan: what is attributed.
        folder: for the files; existing files are not made again.
        what: the name of the work, for people.
        on_part: called when some chunks are done.
    """

    context: AuditContext
    plan: ScoringPlan
    folder: Path
    what: str
    on_part: Callable[[int], None]

    def total(self, name: str, leaf: Leaf, *given: Path) -> Path:
        groups = chunk_groups(run_data(self.plan.run_path).chunks("train"))
        tasks = [(leaf, self.plan, group, *given) for group in groups]
        return summed(
            self.context.workers, of_part, tasks, self.folder / name, f"{self.what}: {name}", self.on_part
        )

    def derive(self, name: str, function: Leaf, *given: Path) -> Path:
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            tasks = [(function, self.plan, path, *given)]
            self.context.workers.run(write_derived, tasks, [f"{self.what}: {name}"])
        return path


def of_part(leaf: Leaf, plan: ScoringPlan, chunks: list[Chunk], *given: Path) -> Tensors:
    """Compute a step for some chunks (a task for a worker)."""
    most = run_budgets(plan.run_path).weights
    found = [keep_tensors(path, partial(load_file, path), most) for path in given]
    return leaf(ChunksPart(plan, chunks), *found)


def write_derived(function: Leaf, plan: ScoringPlan, path: Path, *given: Path) -> None:
    """Compute a derived value from files and write it (a task for a worker)."""
    save_tensors(path, function(ChunksPart(plan), *(load_file(each) for each in given)))


def rows_of(plan: ScoringPlan, chunks: Sequence[Chunk]) -> Iterator[Batch]:
    for chunk in chunks:
        yield from batches(plan.run_path, chunk)
