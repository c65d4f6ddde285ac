"""Warns if training was too short for its signals to tell wrong labels from labels that are not learned yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.text import words

LEAST_EXPLAINED = 0.1
"""A model that explains a smaller share of the loss of a constant prediction has hardly learned anything."""
LATE = 0.2
"""Training had not settled if more than this share of the total decrease of the loss came in its second half. A loss
that falls exponentially settles in this sense within three time constants."""
UNSEEN = ("out_of_sample_loss", "validation_loss")
SO = "rows that are not learned yet look like wrong labels, and flags may be too many"


def undertrained(curve: Sequence[Mapping[str, float | None]], without_features: float) -> str | None:
    """A warning about a training that was too short, in sentences with the numbers; None if it was long enough.

    Args:
        curve: mean losses for every epoch: `out_of_sample_loss`, or else `validation_loss`, or else `train_loss`, which
            tells less because memorising goes on to the end.
        without_features: the loss of a constant prediction, the `constant_loss` of the task.
    """
    column = next((name for name in UNSEEN if curve[-1].get(name) is not None), "train_loss")
    losses = [value for line in curve if (value := line[column]) is not None]
    best, half = min(losses), len(losses) // 2
    if best > (1 - LEAST_EXPLAINED) * without_features:
        return (
            f"The model learned hardly more than how frequent the labels are (loss {words.number(best)}, without "
            f"looking at the features {words.number(without_features)}): {SO}. Raise training.epochs or "
            "training.learning_rate, or give another model."
        )
    before = min(losses[:half], default=without_features)
    if column not in UNSEEN or before - best <= LATE * (without_features - best):
        return None
    since = f"within {words.plural(half, 'epoch')}" if half else "without looking at the features"
    return (
        f"The model was still learning when training ended: on rows that it had not seen the loss was "
        f"{words.number(before)} {since} and {words.number(best)} within {words.plural(len(losses), 'epoch')}. Until "
        f"it settles, {SO}. Raise training.epochs."
    )
