"""Plans of attribution: the whole run, and its early window if detection needs it; with the paths of their files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.attribution.curvature.fit import segment_of_tensors
from pipeline.attribution.curvature.segments import PreparedSegment, flat_segment
from pipeline.attribution.methods import Method, find_method
from pipeline.attribution.model.calls import Inputs
from pipeline.attribution.model.capture import covered_layers
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.scores.conductor import Chain
from pipeline.attribution.scores.plan import PlannedSegment, plan_chains
from pipeline.attribution.scores.similarity import Similarity, find_similarity
from pipeline.attribution.trajectory.points import Points
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.trajectory.weights import load_weights, restore_weights, save_weights, under
from pipeline.config import AuditConfig
from pipeline.data.encoded import Chunk, Rows
from pipeline.runs.directory import read_json
from pipeline.training.batches import weighted
from pipeline.training.main_run import early_trajectory, whole_trajectory
from pipeline.training.setup import class_weights
from pipeline.workers.kept import keep, keep_tensors
from pipeline.workers.worker import run_budgets, run_config, run_data, run_device, run_model, run_objective

Part = TypeVar("Part")
GROUPS_AT_MOST = 32
"""A sum has at most so many partial sums on disk; the number is fixed, so that sums don't depend on the workers."""


@dataclass(frozen=True)
class ScoringPlan:
    """A trajectory to attribute.

    Attributes:
        name: `whole` or `early`.
        run_path: the run directory.
        segments: of the trajectory.
    """

    name: str
    run_path: Path
    segments: int

    @property
    def trajectory_path(self) -> Path:
        return whole_trajectory(self.run_path) if self.name == "whole" else early_trajectory(self.run_path)

    @property
    def directory(self) -> Path:
        factors = self.run_path / "factors"
        return factors if self.name == "whole" else factors / self.name

    def segment_path(self, segment: int) -> Path:
        return self.directory / f"segment-{segment}.safetensors"

    def mean_path(self, mean: int) -> Path:
        """The file with the mean of a segment's checkpoints, for methods that take gradients at this mean."""
        return self.directory / f"mean-{mean}.safetensors"

    @property
    def query_path(self) -> Path:
        return self.directory / "query-validation.safetensors"

    @property
    def group_query_path(self) -> Path:
        return self.directory / "query-groups.safetensors"

    @property
    def scale_path(self) -> Path:
        """The file with `alpha` and the number of rows that it was measured on."""
        return self.directory / "scale.json"

    def alpha(self) -> float | None:
        """The scale correction α of validation harm; None if it is not defined."""
        if not self.scale_path.exists():
            return None
        return float(keep("scale", self.scale_path, lambda: read_json(self.scale_path))["alpha"])

    def scale(self) -> float:
        """The factor on scores of the validation query: α, or 1 if there is no α or the filters contain it."""
        return 1.0 if self.method.refined else self.alpha() or 1.0

    @property
    def method_name(self) -> str:
        return run_config(self.run_path).attribution.method

    @property
    def method(self) -> Method:
        return find_method(self.method_name)

    def trajectory(self) -> Trajectory:
        return keep(
            "trajectory",
            self.trajectory_path / "trajectory.json",
            lambda: Trajectory.load(self.trajectory_path),
        )

    def chains(self) -> list[list[PlannedSegment]]:
        """The chains of planned segments, as in `plan_chains`; each worker makes them once.

        A method that compares features has one chain without segments.
        """
        if self.method.similarity is not None:
            return [[]]

        def make() -> list[list[PlannedSegment]]:
            points = StoredPoints(self)
            rows = StageRows(TrainPairs(self.run_path), run_objective(self.run_path))
            return plan_chains(points, self.method, [rows], self.segments)

        path = self.trajectory_path / "trajectory.json"
        return keep(f"{self.method_name}, {self.segments} segments", path, make)

    def planned(self) -> list[PlannedSegment]:
        """The segments of all chains in the order in which their files are numbered."""
        return [segment for chain in self.chains() for segment in chain]

    def by_chain(self, of_segments: Sequence[Part]) -> list[Sequence[Part]]:
        """Group values for the segments of `planned` by chain."""
        ends = list(itertools.accumulate(len(chain) for chain in self.chains()))
        return [of_segments[first:last] for first, last in zip([0, *ends], ends)]

    def fitted_chains(self) -> list[Chain]:
        """The chains of planned segments with their factors."""
        prepared = self.by_chain(self.prepared_segments())
        return [Chain(*each) for each in zip(self.chains(), prepared, strict=True)]

    def weights_path(self, point: int) -> Path:
        """The file of the weights at a point: a checkpoint or a mean; numbers of means follow those of checkpoints."""
        checkpoints = self.trajectory().checkpoints
        if point < len(checkpoints):
            return checkpoints[point].path
        return self.mean_path(point - len(checkpoints))

    def weights(self, point: int) -> dict[str, Tensor]:
        path = self.weights_path(point)
        return self._kept(path, lambda: load_weights(path))

    def query_weights(self) -> dict[str, Tensor]:
        """The weights at which the loss of the query is measured."""
        if run_config(self.run_path).attribution.query_at == "tail":
            return self.end_weights()
        return self.weights(len(self.trajectory().checkpoints) - 1)

    def load_query_point(self, model: nn.Module, chain: Sequence[PlannedSegment]) -> None:
        """Load into the model the weights at which a chain takes the gradient of the query."""
        if self.method.apart:
            self.load_checkpoint(model, chain[-1].points[-1])
        else:
            restore_weights(model, self.query_weights())

    def end_weights(self) -> dict[str, Tensor]:
        """The mean of the last iterates, or else the last checkpoint."""
        trajectory = self.trajectory()
        if trajectory.tail is None:
            return self.weights(len(trajectory.checkpoints) - 1)
        return self._kept(trajectory.tail, trajectory.load_tail)

    def _kept(self, path: Path, load: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return keep_tensors(path, load, run_budgets(self.run_path).weights)

    def load_checkpoint(self, model: nn.Module, checkpoint: int) -> None:
        restore_weights(model, self.weights(checkpoint), self.weights_path(checkpoint))

    def prepared_segments(self) -> list[PreparedSegment]:
        """The segments of `planned` with their factors; each worker reads them once."""

        def load(place: int, planned: PlannedSegment) -> PreparedSegment:
            tensors = load_file(self.segment_path(place), device=str(run_device(self.run_path)))
            return segment_of_tensors(tensors, planned.points, planned.spectrum, planned.preconditioners)

        def flat(planned: PlannedSegment) -> PreparedSegment:
            layers = covered_layers(attribution_model(self.run_path))
            return flat_segment(layers, planned.points, planned.spectrum, planned.preconditioners)

        def make(place: int, planned: PlannedSegment) -> PreparedSegment:
            if planned.fitted_on is not None:
                return keep("segment", self.segment_path(place), lambda: load(place, planned))
            path = self.trajectory_path / "trajectory.json"
            return keep(f"{self.method_name}, segment {place}", path, lambda: flat(planned))

        return [make(place, planned) for place, planned in enumerate(self.planned())]

    @property
    def similarity(self) -> Similarity | None:
        """The features that the method compares; None if it does not compare features."""
        name = self.method.similarity
        return None if name is None else find_similarity(name)

    @property
    def inverse_path(self) -> Path:
        """The file with `inverse`, the inverse of the metric of features, for methods with a metric."""
        return self.directory / "metric.safetensors"

    def query_filters(self) -> list[dict[str, Tensor]]:
        return self._filters(self.query_path)

    def group_filters(self) -> list[dict[str, Tensor]]:
        """The filters of the cells: for each segment, layer → `[cells, out, in]`."""
        return self._filters(self.group_query_path)

    def _filters(self, path: Path) -> list[dict[str, Tensor]]:
        tensors = keep("query", path, lambda: load_file(path))
        places = {int(name.partition("/")[0]) for name in tensors}
        return [under(f"{place}/", tensors) for place in sorted(places)]


class StoredPoints(Points):
    """The points of a plan; means of checkpoints lie on disk and are computed if they are missing."""

    def __init__(self, plan: ScoringPlan):
        super().__init__(attribution_model(plan.run_path), plan.trajectory())
        self._plan, self._count = plan, 0

    def add_mean(self, checkpoints: Sequence[int], rows: StageRows) -> int:
        path = self._plan.mean_path(self._count)
        if not path.exists():
            super().add_mean(checkpoints, rows)
            save_weights(path, self._means.pop())
        self._count += 1
        return len(self.trajectory.checkpoints) + self._count - 1


class TrainPairs:
    """An iterable over batches of inputs and labels of all train rows; it can be iterated repeatedly."""

    def __init__(self, run_path: Path):
        self.run_path = run_path

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        for chunk in run_data(self.run_path).chunks("train"):
            for batch in batches(self.run_path, chunk):
                yield batch.inputs, batch.labels


def plans(run_path: Path, config: AuditConfig, early_epoch: int) -> list[ScoringPlan]:
    """The plans of a run: the whole run, and the early window if its harm is a signal and it is not the whole run."""
    found = [ScoringPlan("whole", run_path, config.attribution.segments)]
    wanted = config.data.validation_is_clean and run_data(run_path).count("validation") > 0
    if wanted and 2 * early_epoch < config.training.known_epochs:
        found.append(ScoringPlan("early", run_path, 1))
    return found


def chunk_groups(chunks: Sequence[Part]) -> list[list[Part]]:
    """Consecutive groups of chunks (or of values for them), at most GROUPS_AT_MOST; they depend on the chunks alone."""
    size = max(1, -(-len(chunks) // GROUPS_AT_MOST))
    return [list(chunks[start : start + size]) for start in range(0, len(chunks), size)]


def batches(run_path: Path, chunk: Chunk) -> Iterator[Batch]:
    """Yield batches of a chunk's rows with their weights in training, on the device of this worker."""
    rows, size = weighted_rows(run_path, chunk), run_config(run_path).attribution.batch_size
    for start in range(0, len(rows), size):
        yield batch_of(run_path, rows.select(slice(start, start + size)))


def weighted_rows(run_path: Path, chunk: Chunk) -> Rows:
    """The rows of a chunk with their weights in training."""
    rows = run_data(run_path).load(chunk)
    if chunk.role != "train":
        return rows
    return weighted(rows, class_weights(run_config(run_path).training, run_data(run_path)))


def batch_of(run_path: Path, rows: Rows) -> Batch:
    """A batch of rows for attribution, on the device of this worker."""
    part = rows.to(run_device(run_path))
    return Batch(part.inputs, part.labels, part.row_ids, part.weights)


def attribution_model(run_path: Path) -> nn.Module:
    """The model into which weights of checkpoints are loaded; each worker builds it once."""
    path = run_path / "encoding.json"
    return keep("model", path, lambda: run_model(run_path, 0))
