"""What attributions predict: the scores of every method for every question, kept with the code they are from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

import pipeline.attribution
from benchmarks.lds.bases import KINDS, Base
from benchmarks.lds.likeness import bm25_likeness, helping, takes_texts, tfidf_likeness
from benchmarks.lds.peer_curvlinops import curvlinops_influence
from benchmarks.lds.peer_dattri import REGULARIZATION, dattri_cg, dattri_suits
from benchmarks.lds.peer_kronfluence import DEFAULT_DAMPING, kronfluence_influence
from benchmarks.lds.tasks import NEXT_TOKEN, Task
from benchmarks.lds.truth import POINTS, query_values
from pipeline.attribution import Objective, attribute
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.rows.derivatives import row_source
from pipeline.attribution.unrolling.replay import Replay
from pipeline.attribution.unrolling.unrolled import unrolled_harm
from pipeline.attribution.unrolling.unrolled_gauss_newton import WindowMeans, unrolled_gauss_newton_harm
from pipeline.runs.tensors import save_tensors

# (method, kind of query, where its gradient is taken) -> τ, float64 `[queries, rows]`.
Scores = dict[tuple[str, str, str], np.ndarray]


def objective(task: Task) -> Objective:
    """The task's objective on marked labels: scores of a query's margin come about as those of its loss do."""
    trained = task.recipe.objective
    products = trained.hessian_products

    def own(labels: Tensor | None) -> Tensor | None:
        if labels is None or task.recipe.loss == NEXT_TOKEN:
            return None if labels is None else labels[:, :-1].long()
        return labels[:, 0].long() if task.measures_margins else labels[:, 0].float()

    def losses(outputs: Tensor, labels: Tensor) -> Tensor:
        measure = query_values if bool(labels[0, -1]) else None
        given = own(labels)
        assert given is not None
        return trained.losses(outputs, given) if measure is None else measure(task, outputs, given)

    def margins(outputs: Tensor, labels: Tensor) -> Tensor | None:
        given = own(labels)
        assert given is not None
        return trained.margins(outputs, given)

    return Objective(
        name=f"{trained.name} or margin",
        losses=losses,
        margins=margins,
        sampled_output_gradients=lambda outputs, uniforms, labels=None: trained.sampled_output_gradients(
            outputs, uniforms, own(labels)
        ),
        exact_output_gradients=lambda outputs, labels=None: trained.exact_output_gradients(
            outputs, own(labels)
        ),
        hessian_products=None
        if products is None
        else lambda outputs, labels, changes: products(outputs, own(labels), changes),
    )


def by_attribute(base: Base, kind: str, at: str, **options: Any) -> Tensor:
    """τ of `pipeline.attribution.attribute` with these options: float64 `[queries, rows]`."""
    found = attribute(
        base.task.build(),
        base.trajectory,
        base.train_stages(),
        base.query_batches(kind),
        loss=objective(base.task),
        query_at=at,
        reduce_queries=kind == "validation_loss",
        **options,
    )
    if kind == "margins":
        assert found.influence is not None
        return found.influence
    assert found.harm is not None
    return -found.harm[None]


def source(base: Base, kind: str, at: str) -> Tensor:
    """SOURCE with one segment a stage, in nats where that is defined."""
    in_nats = kind == "validation_loss" and len(base.task.recipe.epochs) == 1
    return by_attribute(base, kind, at, method="source", calibrate=in_nats)


def representation_likeness(base: Base, kind: str, at: str, by_label: bool = False) -> Tensor:
    """The cosine of the last layer's inputs; by_label: a row of another label than the query's counts against it."""
    queries = base.query_batches(kind)
    found = attribute(
        base.task.build(),
        base.trajectory,
        base.train_stages(),
        queries,
        loss=objective(base.task),
        method="representation",
        query_at=at,
        reduce_queries=False,
    ).influence
    assert found is not None
    if by_label:
        labels = torch.cat([labels[:, 0] for _, labels in queries])
        found = found * torch.where(labels[:, None] == base.data.labels, 1.0, -1.0)
    return helping(base, kind, found)


def by_unrolling(base: Base, smoothed: bool, pieces: int | None = None) -> Tensor:
    """τ of the mean validation loss, by differentiating through training: float64 `[1, rows]`.

    pieces: of the smoothing over orders, as in `unrolled_harm`; 0 takes the recorded batches.
    """
    if len(base.task.recipe.epochs) > 1:
        raise AttributionError("Training in stages is not unrolled.", "Use SOURCE.")
    rows, query = row_source(base.train_batches()), base.query_batches("validation_loss")
    model, wanted, _ = base.task.build(), objective(base.task), base.trajectory
    if smoothed:
        return -unrolled_gauss_newton_harm(model, WindowMeans.load(base.pieces), wanted, rows, query).harm[
            None
        ]
    found = unrolled_harm(model, Replay.load(base.replay), wanted, rows, query, pieces=pieces)
    print(f"{base.name}: the adjoint grows by {found.growth:.2g}, chaotic: {found.chaotic}")
    if found.chaotic:
        raise AttributionError(f"The adjoint grows by {found.growth:.2g}: chaotic.", "Use SOURCE.")
    return -found.harm[None]


@dataclass(frozen=True)
class Method:
    """scores: (base, kind of query, where its gradient is taken) -> τ; facts: said in its rows of the results.

    suits: whether it is asked about a task's base model of this seed, with this kind of query.
    """

    scores: Callable[[Base, str, str], Tensor]
    kinds: tuple[str, ...] = KINDS
    points: tuple[str, ...] = POINTS
    facts: dict[str, Any] = field(default_factory=dict)
    suits: Callable[[Task, int, str], bool] = lambda *_: True

    def questions(self, task: Task, seed: int) -> list[tuple[str, str]]:
        """(kind of query, where its gradient is taken), of what is asked about a base model."""
        return [(kind, at) for kind in self.kinds for at in self.points if self.suits(task, seed, kind)]


def adaptive(task: Task, *_: object) -> bool:
    """Whether training used Adam: else the formula for gradient descent is SOURCE's own."""
    return task.recipe.optimizer != "sgd"


def has_classes(task: Task, *_: object) -> bool:
    """Whether a row has one label, a class."""
    return task.measures_margins


def first_or_small(task: Task, seed: int, _: str) -> bool:
    """Peers take minutes for each of the larger MLPs; they are not asked about language models."""
    return task.recipe.loss != NEXT_TOKEN and (seed == 0 or task.folder != "fashion_mnist")


METHODS = {
    "source": Method(source),
    "source_3": Method(partial(by_attribute, method="source", segments=3), points=("tail",)),
    "fast_source": Method(partial(by_attribute, method="fast_source"), points=("tail",)),
    "source_refined": Method(partial(by_attribute, method="source_refined"), points=("tail",)),
    "source_sgd_formula": Method(partial(by_attribute, method="source_sgd_formula"), suits=adaptive),
    "influence": Method(partial(by_attribute, method="influence"), facts={"damping": "0.1 of the mean"}),
    "kronfluence_influence": Method(
        kronfluence_influence,
        points=("final",),
        facts={"damping": "0.1 of the mean"},
        suits=first_or_small,
    ),
    "kronfluence_default": Method(
        partial(kronfluence_influence, damping=DEFAULT_DAMPING),
        points=("final",),
        facts={"damping": str(DEFAULT_DAMPING)},
        suits=first_or_small,
    ),
    "curvlinops_influence": Method(
        curvlinops_influence, points=("final",), facts={"fisher": "exact"}, suits=first_or_small
    ),
    "dattri_cg": Method(
        dattri_cg,
        kinds=("margins",),
        points=("final",),
        facts={"damping": str(REGULARIZATION)},
        suits=dattri_suits,
    ),
    # TracIn takes the query's gradient at every checkpoint; baselines are asked as they are usually used.
    "tracin": Method(partial(by_attribute, method="tracin"), points=("final",)),
    "graddot": Method(partial(by_attribute, method="graddot"), points=("final",)),
    "trak": Method(
        partial(by_attribute, method="trak"),
        points=("final",),
        suits=lambda task, *_: task.recipe.loss != NEXT_TOKEN,
    ),
    "representation": Method(representation_likeness, points=("final",)),
    "representation_by_label": Method(
        partial(representation_likeness, by_label=True), points=("final",), suits=has_classes
    ),
    "tfidf": Method(tfidf_likeness, points=("final",), suits=takes_texts),
    "bm25": Method(bm25_likeness, points=("final",), suits=takes_texts),
    "unrolled": Method(lambda base, *_: by_unrolling(base, False), ("validation_loss",), ("tail",)),
    "unrolled_gauss_newton": Method(
        lambda base, *_: by_unrolling(base, True), ("validation_loss",), ("tail",)
    ),
}


@cache
def code_version() -> bytes:
    """Changes with the source of `pipeline.attribution`."""
    folder = Path(pipeline.attribution.__file__).parent
    text = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))
    return hashlib.sha256(text).digest()[:8]


def scores(base: Base, method: str, kind: str, at: str) -> np.ndarray | None:
    """τ, float64 `[queries, rows]`, from the cache if this code made it; None, with a line that says why, where it is
    not defined.
    """
    path = base.folder / f"{method}-{kind}-{at}.safetensors"
    kept = load_file(path) if path.exists() else {}
    if "code" not in kept or bytes(kept["code"].numpy()) != code_version():
        try:
            found = METHODS[method].scores(base, kind, at)
        except AttributionError as error:
            print(f"{base.name}: no {method} for {kind} at {at}: {error}")
            found = torch.zeros(0, len(base.data.labels))
        version = torch.frombuffer(bytearray(code_version()), dtype=torch.uint8)
        kept = {"scores": found, "code": version, "stages": torch.from_numpy(base.data.stages)}
        save_tensors(path, kept)
    return kept["scores"].double().numpy() if len(kept["scores"]) else None


def all_scores(base: Base) -> Scores:
    """Of all methods that are defined."""
    found = {}
    for name, method in METHODS.items():
        for kind, at in method.questions(base.task, base.seed):
            begin = time.perf_counter()
            one = scores(base, name, kind, at)
            seconds = time.perf_counter() - begin
            line = f"{base.name}, base model {base.seed}: {name} for {kind} at {at}, {seconds:.1f} s"
            print(line, flush=True)
            if one is not None:
                found[name, kind, at] = one
    return found


def asked_in_all(task: Task, seed: int) -> int:
    """How often methods are asked about a base model."""
    return sum(len(method.questions(task, seed)) for method in METHODS.values())


@dataclass(frozen=True)
class Kept:
    """What a base model's folder holds.

    stages: as in `Data`, None without scores; asked: how often a method was asked, `scores` are those that are
    defined; others: how many are of other code.
    """

    scores: Scores
    stages: np.ndarray | None
    asked: int
    others: int


def kept_scores(folder: Path) -> Kept:
    found, stages, asked, others = {}, None, 0, 0
    for path in sorted(folder.glob("*-*-*.safetensors")):
        method, kind, at = path.stem.split("-")
        kept = load_file(path)
        if method not in METHODS or at not in METHODS[method].points or "code" not in kept:
            continue
        asked += 1
        others += bytes(kept["code"].numpy()) != code_version()
        stages = kept["stages"].numpy()
        if len(kept["scores"]):
            found[method, kind, at] = kept["scores"].double().numpy()
    return Kept(found, stages, asked, others)
