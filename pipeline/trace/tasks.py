"""The tasks of a trace for workers: filters of some queries, and the strongest rows of a chunk for every query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution.methods import Method
from pipeline.attribution.model.calls import Inputs, select_inputs
from pipeline.attribution.model.precision import matrix_products
from pipeline.attribution.queries.compression import Filter, LowRankMatrices, joined
from pipeline.attribution.queries.gradients import query_gradients
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.scores.conductor import Filters, find_filters
from pipeline.attribution.scores.queries import query_influences
from pipeline.attribution.trajectory.weights import restore_weights, under
from pipeline.data.encoded import Chunk
from pipeline.models.features import features_and_outputs, penultimate_features
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.plan import ScoringPlan, attribution_model, batches
from pipeline.trace.nearest import nearest
from pipeline.trace.strongest import Table, strongest
from pipeline.trace.word_counts import counts_path, load_counts, weighting
from pipeline.workers.worker import (
    plain_objective,
    run_budgets,
    run_config,
    run_data,
    run_device,
    run_objective,
)

QUERIES_PER_PART = 64


@dataclass(frozen=True)
class TraceWork:
    """The paths and settings of one trace while it runs.

    Attributes:
        run_path: the run directory.
        folder: for intermediate files.
        segments: of training.
        queries: how many there are.
        part_queries: how many queries form a part.
        top: how many rows are kept for each query and direction.
        tolerance: of the compression of filters.
        refined: whether filters are solved for with the true Gauss–Newton matrix, in nats.
        words: whether words are compared.
    """

    run_path: Path
    folder: Path
    segments: int
    queries: int
    part_queries: int
    top: int
    tolerance: float
    refined: bool
    words: bool

    @property
    def measures(self) -> list[str]:
        """Of similarity."""
        return ["words", "representation"] if self.words else ["representation"]

    @property
    def plan(self) -> ScoringPlan:
        return ScoringPlan("whole", self.run_path, self.segments)

    @property
    def method(self) -> Method:
        """The method of the run, in its refined form or not."""
        return replace(self.plan.method, refined=self.refined)

    @property
    def scale(self) -> float:
        """The factor that scales influences to nats."""
        return 1.0 if self.refined else self.plan.scale()

    @property
    def parts(self) -> int:
        return -(-self.queries // self.part_queries)

    @property
    def queries_path(self) -> Path:
        """The file of the inputs by kind and, if the queries have them, `labels`; `[queries, …]` each."""
        return self.folder / "queries.safetensors"

    def answers_path(self, part: int) -> Path:
        """The file with `features`, `outputs`, `labels` and `losses` of the queries of a part."""
        return self.folder / f"answers-{part}.safetensors"

    def filters_path(self, part: int) -> Path:
        """The file with the filters of a part's queries, as `<segment>/<layer>/left`, `…/right` and `…/owner`."""
        return self.folder / f"filters-{part}.safetensors"

    @property
    def words_path(self) -> Path:
        """The file of how often the queries have each word."""
        return self.folder / "words.safetensors"

    @property
    def rows_with_path(self) -> Path:
        """The file of `rows_with`: in how many train rows each word is."""
        return self.folder / "rows-with.safetensors"

    def chunk_path(self, chunk: Chunk) -> Path:
        return self.folder / f"chunk-{chunk.id}.safetensors"

    def rows_of(self, part: int) -> slice:
        return slice(part * self.part_queries, min(self.queries, (part + 1) * self.part_queries))


def prepare_part(work: TraceWork, part: int) -> None:
    """Write the predictions of a part's queries and, unless refined, their compressed filters (a task for a worker)."""
    path, plan = work.run_path, work.plan
    model, (inputs, labels) = attribution_model(path), read_part(work, part)
    restore_weights(model, plan.query_weights())
    features, outputs = features_and_outputs(model, inputs)
    if labels is None:
        labels = outputs.argmax(1)
    losses = plain_objective(path).losses(outputs, labels).detach()
    tensors = {"features": functional.normalize(features, dim=1), "outputs": outputs.float()}
    save_tensors(work.answers_path(part), tensors | {"labels": labels, "losses": losses})
    if work.refined:
        return
    with matrix_products(run_config(path).attribution.precision):
        step = max(1, run_budgets(path).queries // (8 * parameter_count(model)))
        found = []
        for some in torch.arange(len(labels), device=labels.device).split(step):
            of_segments: list[Mapping[str, Filter]] = []
            for chain in plan.fitted_chains():
                plan.load_query_point(model, chain.planned)
                gradients = loss_gradients(work, select_inputs(inputs, some), labels[some])
                of_segments += find_filters(work.method, chain, gradients, tolerance=work.tolerance).filters
            found.append(of_segments)
    write_filters(work, part, found)


def read_part(work: TraceWork, part: int) -> tuple[Tensor | dict[str, Tensor], Tensor | None]:
    """The inputs of a part's queries and their labels (None without labels), on the device of this worker."""
    place, device = work.rows_of(part), run_device(work.run_path)
    given = {name: tensor[place].to(device) for name, tensor in load_file(work.queries_path).items()}
    labels = given.pop("labels", None)
    return given if len(given) > 1 else next(iter(given.values())), labels


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def loss_gradients(work: TraceWork, inputs: Inputs, labels: Tensor) -> dict[str, Tensor]:
    """Layer → the gradient of each query's loss at the current weights, float64 `[queries, out, in]`."""
    found = query_gradients(attribution_model(work.run_path), plain_objective(work.run_path), inputs, labels)
    return {name: each.double() for name, each in found.items()}


def write_filters(work: TraceWork, part: int, found: Sequence[Filters]) -> None:
    """Write the filters of a part; `found` has compressed filters per segment for consecutive groups of its queries."""
    tensors = {}
    for segment in range(len(found[0])):
        for layer in found[0][segment]:
            parts = [each for some in found if isinstance(each := some[segment][layer], LowRankMatrices)]
            whole = joined(parts)
            for name in ("left", "right"):
                tensors[f"{segment}/{layer}/{name}"] = getattr(whole, name).float()
            tensors[f"{segment}/{layer}/owner"] = whole.owner
    save_tensors(work.filters_path(part), tensors)


def _read_filters(work: TraceWork, part: int) -> list[dict[str, LowRankMatrices]]:
    tensors = load_file(work.filters_path(part), device=str(run_device(work.run_path)))
    rows = work.rows_of(part)
    found = []
    for segment in range(len(work.plan.planned())):
        mine = under(f"{segment}/", tensors)
        layers = sorted({name.rpartition("/")[0] for name in mine})
        found.append(
            {
                layer: LowRankMatrices(
                    mine[f"{layer}/left"],
                    mine[f"{layer}/right"],
                    mine[f"{layer}/owner"],
                    rows.stop - rows.start,
                )
                for layer in layers
            }
        )
    return found


def _blocks(work: TraceWork) -> Iterator[tuple[slice, list[dict[str, LowRankMatrices]]]]:
    """Yield slices of the queries with their filters; a slice has as many parts as the worker may hold."""
    waiting: list[int] = []
    held, most = 0, run_budgets(work.run_path).filters
    for part in range(work.parts):
        waiting.append(part)
        held += work.filters_path(part).stat().st_size
        following = work.filters_path(part + 1).stat().st_size if part + 1 < work.parts else most
        if held + following > most:
            parts = [_read_filters(work, each) for each in waiting]
            together = [
                {layer: joined([each[segment][layer] for each in parts]) for layer in parts[0][segment]}
                for segment in range(len(parts[0]))
            ]
            yield slice(work.rows_of(waiting[0]).start, work.rows_of(waiting[-1]).stop), together
            waiting, held = [], 0


def read_answers(work: TraceWork) -> dict[str, Tensor]:
    """`features`, `outputs`, `labels` and `losses` of all queries."""
    found: dict[str, list[Tensor]] = {}
    for part in range(work.parts):
        for name, tensor in load_file(work.answers_path(part)).items():
            found.setdefault(name, []).append(tensor)
    return {name: torch.cat(parts) for name, parts in found.items()}


def trace_chunk(work: TraceWork, chunk: Chunk) -> None:
    """Write the strongest and the nearest rows of a chunk for every query (a task for a worker).

    Tensors of the file under `strongest/`, `[2 directions, queries, top]`, and under `nearest/`,
    `[measures, queries, top]`:

    - places: int64, among the train rows; −1 means no row.
    - row_ids: int64.
    - influence: float64, in nats, scaled like validation harm or, if refined, solved for.
    - similarity: the cosine of penultimate features; of the nearest rows, by their measure.
    - labels: encoded.
    """
    path, plan = work.run_path, work.plan
    model, config = attribution_model(path), run_config(path).attribution
    parts = list(batches(path, chunk))
    restore_weights(model, plan.query_weights())
    mine = functional.normalize(torch.cat([_features_of(model, batch) for batch in parts]), dim=1)
    asked = read_answers(work)["features"].to(mine)
    words = _weighted_words(work, chunk) if work.words else None
    row_ids = torch.cat([batch.row_ids for batch in parts]).cpu().numpy()
    labels = torch.cat([batch.labels for batch in parts]).cpu().numpy()
    found: list[Table] = []
    near: list[Table] = []
    for queries, filters in _blocks(work):
        with matrix_products(config.precision):
            influence = (
                work.scale
                * query_influences(
                    model,
                    lambda checkpoint: plan.load_checkpoint(model, checkpoint),
                    run_objective(path),
                    parts,
                    plan.prepared_segments(),
                    plan.trajectory().train_rows,
                    filters,
                ).numpy()
            )
        similarity = (asked[queries] @ mine.T).cpu().numpy()
        places = strongest(influence, row_ids, work.top)
        rows = np.arange(len(influence))[None, :, None]
        there = places >= 0
        found.append(
            {
                "places": np.where(there, places + chunk.first, -1),
                "row_ids": row_ids[places],
                "influence": np.where(there, influence[rows, places], 0.0),
                "similarity": similarity[rows, places],
                "labels": labels[places],
            }
        )
        by = {} if words is None else {"words": (words[0][queries] @ words[1].T).toarray()}
        by["representation"] = similarity
        near.append(nearest(by, influence, row_ids, labels, work.top, chunk.first))
    whole = {
        f"{kind}/{name}": torch.from_numpy(np.concatenate([each[name] for each in tables], axis=1))
        for kind, tables in (("strongest", found), ("nearest", near))
        for name in tables[0]
    }
    save_tensors(work.chunk_path(chunk), whole)


def read_chunk(work: TraceWork, chunk: Chunk) -> tuple[Table, Table]:
    """The strongest and the nearest rows that `trace_chunk` wrote."""
    tensors = load_file(work.chunk_path(chunk))
    strong, near = (
        {name: each.numpy() for name, each in under(f"{kind}/", tensors).items()}
        for kind in ("strongest", "nearest")
    )
    return strong, near


def _weighted_words(work: TraceWork, chunk: Chunk) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """TF-IDF of the queries and of a chunk's rows, each row of length 1."""
    rows_with = load_file(work.rows_with_path)["rows_with"].numpy()
    weigh = weighting(rows_with, run_data(work.run_path).count("train"))
    asked, rows = (
        weigh.transform(load_counts(path)) for path in (work.words_path, counts_path(work.folder, chunk))
    )
    return asked, rows


def _features_of(model: nn.Module, batch: Batch) -> Tensor:
    """The penultimate features of a batch, float32 `[batch, width]`."""
    inputs = batch.inputs
    return penultimate_features(model, inputs if isinstance(inputs, Tensor) else dict(inputs))
