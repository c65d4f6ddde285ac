"""Methods of training data attribution as data, from which every list of methods is derived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.attribution.errors import AttributionError

SEGMENTS, CALIBRATE, RELABEL = "segments", "calibrate", "relabel"
DAMPING, PROJECTION, REFINED, RECORDING = "damping", "projection", "refined", "recording"


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        title: what it is called in a sentence.
        points: where gradients are taken: at the ``checkpoints`` of every segment, at the ``mean`` of the weights of
            each segment's checkpoints, at the ``end`` of training alone, or at the ``query`` point.
        options: of the options of ``attribute`` that not every method has, those that have an effect.
        conditioned: whether Adam's scaling of every parameter is taken into account.
        curved: whether the loss's curvature is; if not, it isn't fitted.
        apart: whether every checkpoint is attributed on its own, with the query's gradient there, and all are summed.
        similarity: compares features of queries and rows instead of gradients through curvature: which ones, a name
            in ``similarity.SIMILARITIES``.
        refined: whether queries are solved for with the true Gauss–Newton matrix.
        recorder: what has to record the training beside the trajectory, if anything has to; harm is then unrolled.
        in_audits: whether an audit can be scored with it.
    """

    title: str
    points: str
    options: tuple[str, ...] = ()
    conditioned: bool = False
    curved: bool = True
    apart: bool = False
    similarity: str | None = None
    refined: bool = False
    recorder: str | None = None
    in_audits: bool = False


_SOURCE = (SEGMENTS, CALIBRATE, RELABEL)

METHODS: Mapping[str, Method] = {
    "source": Method("SOURCE", "checkpoints", _SOURCE, conditioned=True, in_audits=True),
    "source_sgd_formula": Method("SOURCE by the formula of gradient descent", "checkpoints", _SOURCE),
    "fast_source": Method(
        "FAST-SOURCE at the mean weights of its checkpoints",
        "mean",
        _SOURCE,
        conditioned=True,
        in_audits=True,
    ),
    "influence": Method(
        "influence functions at the end of training", "end", (DAMPING, RELABEL), in_audits=True
    ),
    "source_refined": Method(
        "SOURCE, its query solved for with the true Gauss–Newton matrix",
        "checkpoints",
        (*_SOURCE, REFINED),
        conditioned=True,
        refined=True,
        in_audits=True,
    ),
    # Self-influence is SOURCE's, and harm where training is chaotic.
    "unrolled": Method(
        "exact unrolling of a recorded training",
        "checkpoints",
        (SEGMENTS, CALIBRATE, RECORDING),
        conditioned=True,
        recorder="ReplayRecorder",
    ),
    "unrolled_gauss_newton": Method(
        "unrolling with the Gauss–Newton matrix of a recorded training",
        "checkpoints",
        (SEGMENTS, CALIBRATE, RECORDING),
        conditioned=True,
        recorder="PieceRecorder",
    ),
    "tracin": Method("TracIn", "checkpoints", (RELABEL,), curved=False, apart=True),
    "graddot": Method("inner products of gradients at the end of training", "end", (RELABEL,), curved=False),
    "trak": Method("TRAK of one model", "query", (PROJECTION,), similarity="projected_gradients"),
    "representation": Method("the likeness of representations", "query", similarity="representation"),
    "loss": Method("the row's own loss", "query", similarity="loss"),
}


def find_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        AttributionError: there is none of that name.
    """
    if name not in METHODS:
        raise AttributionError(f"There is no method called {name!r}.", f"Use one of: {', '.join(METHODS)}.")
    return METHODS[name]


def methods_of(option: str) -> tuple[str, ...]:
    """Names of the methods in which an option of ``attribute`` has an effect."""
    return tuple(name for name, method in METHODS.items() if option in method.options)


def audit_methods() -> tuple[str, ...]:
    """Names of those that an audit can be scored with."""
    return tuple(name for name, method in METHODS.items() if method.in_audits)
