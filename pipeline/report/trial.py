"""Describes what the trial of a run chose."""

from __future__ import annotations

from typing import Any

from pipeline.text import words

Trial = dict[str, Any]


def trial_summary(trial: Trial | None) -> dict[str, Any] | None:
    """What summary.json says of the trial, from the facts of the stage `train`; None where there was none.

    Returns:
        chosen (by key of the config), model, learning_rate, epochs, rows and judged (rows that took part, and those
        that judged), seconds (of the last attempt), and `tried`: model, learning_rate, epochs and loss of every setting
        that was trained to its end, the lowest loss first.
    """
    if trial is None:
        return None
    names = ("chosen", "model", "learning_rate", "epochs", "rows", "judged", "seconds", "tried")
    return {name: trial[name] for name in names}


def trial_words(trial: Trial) -> str:
    """Short, for a line: `table, 11 epochs at 0.01 (held-out loss 0.372; mlp 0.393)`."""
    best, others = _best_of_models(trial)
    said = [f"held-out loss {words.number(best['loss'])}"]
    said += [f"{each['model']} {words.number(each['loss'])}" for each in others]
    epochs = words.plural(trial["epochs"], "epoch")
    return f"{trial['model']}, {epochs} at {trial['learning_rate']:g} ({'; '.join(said)})"


def trial_sentence(trial: Trial | None) -> str:
    """For the report; empty where there was no trial."""
    if trial is None:
        return ""
    best, others = _best_of_models(trial)
    chosen = f"{trial['model']}, {words.plural(trial['epochs'], 'epoch')}, learning rate {trial['learning_rate']:g}"
    rows = f"{words.rows(trial['rows'])} of train, {words.count(trial['judged'])} of them held out in turn"
    text = (
        f"A trial chose: {chosen}. Its loss was {words.number(best['loss'])} on held-out rows, after "
        f"{words.plural(best['epochs'], 'epoch')} of training on {rows}."
    )
    for each in others:
        more = words.number(each["loss"] - best["loss"])
        text += (
            f" {each['model']} had {words.number(each['loss'])}, {more} more, after "
            f"{words.plural(each['epochs'], 'epoch')} at {each['learning_rate']:g}."
        )
    return text


def _best_of_models(trial: Trial) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The best setting, and the best of every other model."""
    best = trial["tried"][0]
    others: dict[str, dict[str, Any]] = {}
    for each in trial["tried"]:
        if each["model"] != best["model"]:
            others.setdefault(each["model"], each)
    return best, list(others.values())
