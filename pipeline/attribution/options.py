"""Options of ``attribute``: which methods each is of, so that none is given in vain."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.unrolling.unrolled_scores import UNROLLED

METHODS_OF: Mapping[str, tuple[str, ...]] = {
    "segments": ("source", "fast_source", "source_sgd_formula", "source_refined", *UNROLLED),
    "damping": ("influence",),
    "projection": ("trak",),
    "recording": UNROLLED,
    "refined": ("source_refined",),
}


def check_options(method: str, given: Mapping[str, bool]) -> None:
    """Raises AttributionError for an option that is given, other than by default, to a method that ignores it."""
    for option, is_given in given.items():
        if is_given and method not in METHODS_OF[option]:
            others = " or ".join(repr(name) for name in METHODS_OF[option])
            raise AttributionError(
                f"{option} has no effect with method={method!r}.", f"Leave it out, or use method={others}."
            )
