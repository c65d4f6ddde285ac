"""What is attributed: the whole run, and its early window where detection needs it; and where its files lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.attribution.factors import eigenbases_from_tensors
from pipeline.attribution.scores import Batch
from pipeline.attribution.spectrum import source_spectrum
from pipeline.attribution.trajectory import Trajectory
from pipeline.attribution.transport import PreparedSegment
from pipeline.attribution.weights import restore_weights
from pipeline.compute.worker import keep, run_config, run_data, run_device, run_model
from pipeline.config import AuditConfig
from pipeline.data.encoded import Chunk, Rows
from pipeline.run import read_json
from pipeline.training.batches import weighted
from pipeline.training.main_run import early_trajectory, whole_trajectory
from pipeline.training.setup import class_weights

GROUPS_AT_MOST = 32
"""Partial sums that are kept on disk at a time; a fixed number, so that sums don't depend on the workers."""


@dataclass(frozen=True)
class Plan:
    """One trajectory to attribute: `whole` or `early`."""

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

    @property
    def query_path(self) -> Path:
        return self.directory / "query-validation.safetensors"

    @property
    def group_query_path(self) -> Path:
        return self.directory / "query-groups.safetensors"

    @property
    def scale_path(self) -> Path:
        return self.directory / "scale.json"

    def scale(self) -> float:
        """What validation harm is multiplied with: α where it is defined, else 1."""
        if not self.scale_path.exists():
            return 1.0
        return float(keep("scale", self.scale_path, lambda: read_json(self.scale_path))["alpha"])

    def trajectory(self) -> Trajectory:
        return keep(
            "trajectory",
            self.trajectory_path / "trajectory.json",
            lambda: Trajectory.load(self.trajectory_path),
        )

    def weights(self, checkpoint: int) -> dict[str, Tensor]:
        trajectory = self.trajectory()
        path = trajectory.checkpoints[checkpoint].path
        return keep("weights", path, lambda: trajectory.load_weights(checkpoint))

    def query_weights(self) -> dict[str, Tensor]:
        """Where the query's gradient is taken: the mean of the last iterates, or the end."""
        trajectory = self.trajectory()
        if run_config(self.run_path).attribution.query_at == "tail" and trajectory.tail is not None:
            return keep("weights", trajectory.tail, trajectory.load_tail)
        return self.weights(len(trajectory.checkpoints) - 1)

    def load_checkpoint(self, model: nn.Module, checkpoint: int) -> None:
        restore_weights(model, self.weights(checkpoint), self.trajectory().checkpoints[checkpoint].path)

    def prepared_segments(self) -> list[PreparedSegment]:
        """The segments with their factors, read once per worker."""

        def load(segment: int) -> PreparedSegment:
            tensors = load_file(self.segment_path(segment), device=str(run_device(self.run_path)))
            eigenvalues = under("eigenvalues/", tensors)
            bases = eigenbases_from_tensors(under("basis/", tensors))
            cut = self.trajectory().segments(self.segments)[segment]
            spectrum = source_spectrum(cut.lr_sum, cut.weight_decay)
            return PreparedSegment(cut.checkpoints, bases, eigenvalues, spectrum)

        return [
            keep("segment", self.segment_path(segment), lambda segment=segment: load(segment))  # type: ignore[misc]
            for segment in range(self.segments)
        ]

    def query_filters(self) -> list[dict[str, Tensor]]:
        return self._filters(self.query_path)

    def group_filters(self) -> list[dict[str, Tensor]]:
        """Per segment, layer -> `[cells, out, in]`."""
        return self._filters(self.group_query_path)

    def _filters(self, path: Path) -> list[dict[str, Tensor]]:
        tensors = keep("query", path, lambda: load_file(path))
        return [under(f"{segment}/", tensors) for segment in range(self.segments)]


def plans(run_path: Path, config: AuditConfig, early_epoch: int) -> list[Plan]:
    """The whole run; the early window too where its harm is a signal and it is not the whole run."""
    found = [Plan("whole", run_path, config.attribution.segments)]
    wanted = config.data.validation_is_clean and run_data(run_path).count("validation") > 0
    if wanted and 2 * early_epoch < config.training.epochs:
        found.append(Plan("early", run_path, 1))
    return found


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def chunk_groups(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Runs of chunks, at most GROUPS_AT_MOST of them; depends on the chunks alone."""
    size = max(1, -(-len(chunks) // GROUPS_AT_MOST))
    return [list(chunks[start : start + size]) for start in range(0, len(chunks), size)]


def batches(run_path: Path, chunk: Chunk) -> Iterator[Batch]:
    """A chunk's rows for attribution, with the weights that training gave them, on this worker's device."""
    rows, size = weighted_rows(run_path, chunk), run_config(run_path).attribution.batch_size
    for start in range(0, len(rows), size):
        yield batch_of(run_path, rows.select(slice(start, start + size)))


def weighted_rows(run_path: Path, chunk: Chunk) -> Rows:
    """A chunk's rows, with the weights that training gave them."""
    rows = run_data(run_path).load(chunk)
    if chunk.role != "train":
        return rows
    return weighted(rows, class_weights(run_config(run_path).training, run_data(run_path)))


def batch_of(run_path: Path, rows: Rows) -> Batch:
    """Rows for attribution, on this worker's device."""
    part = rows.to(run_device(run_path))
    return Batch(part.inputs, part.labels, part.row_ids, part.weights)


def attribution_model(run_path: Path) -> nn.Module:
    """The model whose weights the checkpoints replace; built once per worker."""
    path = run_path / "encoding.json"
    return keep("model", path, lambda: run_model(run_path, 0))
