"""Methods of training data attribution as data, from which every list of methods is derived."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.attribution.errors import AttributionError

SEGMENTS, CALIBRATE, RELABEL, PER_TOKEN = "segments", "calibrate", "relabel", "per_token"
DAMPING, PROJECTION, REFINED, RECORDING = "damping", "projection", "refined", "recording"

_OPTIONS = (SEGMENTS, CALIBRATE, RELABEL, PER_TOKEN, DAMPING, PROJECTION, REFINED, RECORDING)
_POINTS = ("checkpoints", "mean", "end", "query")


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        title: what it is called in a sentence.
        points: where gradients are taken: at the ``checkpoints`` of every segment, at the ``mean`` of the weights of
            each segment's checkpoints, at the ``end`` of training alone, or at the ``query`` point.
        options: of the options of ``attribute`` that not every method has, those that have an effect.
        preconditioned: whether Adam's scaling of every parameter is taken into account.
        curved: whether the loss's curvature is; if not, it isn't fitted.
        apart: whether every checkpoint is attributed on its own, with the query's gradient there, and all are summed.
        similarity: compares features of queries and rows instead of gradients through curvature: which ones, a name
            in ``similarity.SIMILARITIES``.
        refined: whether queries are solved for with the true Gauss–Newton matrix.
        recorder: what has to record the training beside the trajectory, if anything has to; harm is then unrolled.
        in_audits: what the page of the config says of it; empty where an audit can't be scored with it.

    Raises:
        AttributionError: the attributes don't go together.
    """

    title: str
    points: str
    options: tuple[str, ...] = ()
    preconditioned: bool = False
    curved: bool = True
    apart: bool = False
    similarity: str | None = None
    refined: bool = False
    recorder: str | None = None
    in_audits: str = ""

    def __post_init__(self) -> None:
        unknown = [option for option in self.options if option not in _OPTIONS]
        if unknown:
            self._refuse(f"has an unknown option {unknown[0]!r}", f"Use some of: {', '.join(_OPTIONS)}.")
        if self.points not in _POINTS:
            self._refuse(f"has points={self.points!r}", f"Use one of: {', '.join(_POINTS)}.")
        if (self.points == "query") != (self.similarity is not None):
            self._refuse(
                "takes gradients at the query point, or compares features, but not both",
                "Give points='query' and a similarity together, or neither.",
            )
        if self.apart and (self.curved or self.points != "checkpoints"):
            self._refuse(
                "takes every checkpoint apart, with curvature or at other points",
                "Give curved=False and points='checkpoints'.",
            )
        if self.refined and (not self.curved or self.points == "end"):
            self._refuse(
                "solves for queries without the curvature of segments", "Give curved=True and other points."
            )
        if self.in_audits and self.recorder is not None:
            self._refuse("needs a recording, which audits don't make", "Leave in_audits or the recorder out.")

    @property
    def fitted(self) -> bool:
        """Whether curvature is fitted: eigenvectors and eigenvalues of every segment."""
        return self.curved and self.similarity is None

    def _refuse(self, what: str, hint: str) -> None:
        raise AttributionError(f"The method {self.title!r} {what}.", hint)


_SOURCE = (SEGMENTS, CALIBRATE, RELABEL, PER_TOKEN)

METHODS: dict[str, Method] = {
    "source": Method(
        "SOURCE",
        "checkpoints",
        _SOURCE,
        preconditioned=True,
        in_audits="gradients at every checkpoint. With one segment, validation harm is scaled by a measured number α "
        "to be in nats; with several it is uncalibrated, right in order and several times too large.",
    ),
    "source_sgd_formula": Method("SOURCE by the formula of gradient descent", "checkpoints", _SOURCE),
    "fast_source": Method(
        "FAST-SOURCE at the mean weights of its checkpoints",
        "mean",
        _SOURCE,
        preconditioned=True,
        in_audits="one pass over the rows per segment, at the mean of its checkpoints' weights, for a "
        "`checkpoints`-th of the time. α as above.",
    ),
    "influence": Method(
        "influence functions at the end of training",
        "end",
        (DAMPING, RELABEL, PER_TOKEN),
        in_audits="influence functions at the last checkpoint with EK-FAC; a baseline, uncalibrated.",
    ),
    "source_refined": Method(
        "SOURCE, its query solved for with the true Gauss–Newton matrix",
        "checkpoints",
        (*_SOURCE, REFINED),
        preconditioned=True,
        refined=True,
        in_audits="SOURCE whose query is solved for with the true Gauss–Newton matrix of some rows, EK-FAC as "
        "preconditioner, and scaled by α of 1,024 other rows; better in order and in nats. With several segments they "
        "are solved one after the other, from the last, each with an α of its own. About a fifth more time than "
        "`source`; with `group_harm`, as many solves more as there are classes, or classes times values. `winnow "
        "trace` then solves for every query too: docs/how-to/trace.md#refined-queries.",
    ),
    # Self-influence is SOURCE's, and harm where training is chaotic.
    "unrolled": Method(
        "exact unrolling of a recorded training",
        "checkpoints",
        (SEGMENTS, CALIBRATE, RECORDING),
        preconditioned=True,
        recorder="ReplayRecorder",
    ),
    "unrolled_gauss_newton": Method(
        "unrolling with the Gauss–Newton matrix of a recorded training",
        "checkpoints",
        (SEGMENTS, CALIBRATE, RECORDING),
        preconditioned=True,
        recorder="WindowRecorder",
    ),
    "tracin": Method(
        "TracIn",
        "checkpoints",
        (RELABEL, PER_TOKEN),
        curved=False,
        apart=True,
        in_audits="TracIn: products of gradients at every checkpoint, the validation loss's too, times the learning "
        "rates it stands for; no curvature, so no pass to fit it. A baseline, uncalibrated.",
    ),
    "graddot": Method(
        "inner products of gradients at the end of training",
        "end",
        (RELABEL, PER_TOKEN),
        curved=False,
        in_audits="products of gradients at the last checkpoint; the cheapest baseline, uncalibrated.",
    ),
    "trak": Method(
        "TRAK of one model",
        "query",
        (PROJECTION,),
        similarity="projected_gradients",
        in_audits="TRAK of the audited model (arXiv 2303.14186): gradients projected to 1,024 numbers, where the "
        "validation loss is looked at. A baseline, uncalibrated, without forecasts of other labels and without "
        "`winnow trace`.",
    ),
    "representation": Method("the likeness of representations", "query", similarity="representation"),
    "loss": Method("the row's own loss", "query", similarity="loss"),
}


_BUILT_IN = frozenset(METHODS)


def register_method(name: str, method: Method) -> None:
    """Adds a method, which ``attribute`` then takes by its name, and audits too where ``in_audits`` says so.

    An audit sends what was registered to its own workers.

    Raises:
        AttributionError: the name is taken by another method.
    """
    if METHODS.get(name, method) != method:
        raise AttributionError(f"There is a method called {name!r} already.", "Choose another name.")
    METHODS[name] = method


def registered_methods() -> dict[str, Method]:
    """Name -> method, of those that were added."""
    return {name: method for name, method in METHODS.items() if name not in _BUILT_IN}


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


def refined_form(name: str) -> str | None:
    """The name of the method that solves for queries along the same segments; None where there is none."""
    given = METHODS[name]

    def way(method: Method) -> tuple[object, ...]:
        return method.points, method.preconditioned, method.curved, method.similarity, method.recorder

    return next(
        (each for each, method in METHODS.items() if method.refined and way(method) == way(given)), None
    )
