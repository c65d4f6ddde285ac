"""Whether training went on long enough for its signals to tell wrong labels from labels not learned yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.text import words

LEAST_EXPLAINED = 0.1
"""Of the loss that is left without looking at the features: a model that explains less has hardly learned anything."""
LATE = 0.2
"""Of all that was learned: where more of it came in the second half of training, it had not settled. A loss that falls
exponentially gets there within three time constants."""
UNSEEN = ("out_of_sample_loss", "validation_loss")
SO = "rows that are not learned yet look like wrong labels, and flags may be too many"


def undertrained(curve: Sequence[Mapping[str, float | None]], without_features: float) -> str | None:
    """What must be said of a training that was too short, in sentences with the numbers; None where it was not.

    curve: a line of mean losses for every epoch, `out_of_sample_loss` and `validation_loss`, of which the first that
    there is counts, and `train_loss`, which says less: memorising goes on to the end. without_features: what
    the task's `constant_loss` gives.
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
