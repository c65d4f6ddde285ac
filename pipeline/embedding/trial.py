"""What `winnow check` says of pretrained encoders, from a few rows."""

from __future__ import annotations

from pipeline.data.encode import Encoding
from pipeline.features.pretrained.embed import Trial
from pipeline.features.pretrained.kinds import EncodedColumn
from pipeline.text import words


class Trials:
    """Puts a trial in the place of every encoder of an encoding that has seen no rows."""

    def __init__(self, encoding: Encoding):
        self._trials = []
        for encoder in encoding.features:
            if isinstance(encoder, EncodedColumn):
                trial = Trial(encoder.embedder())
                encoder.embed = trial
                self._trials.append((encoder, trial))

    def seconds(self) -> float:
        """To compute what is missing, on all cores of this machine; asked for when each row was seen once."""
        return sum(trial.missing * (trial.row_seconds or 0.0) for _, trial in self._trials)

    def lines(self) -> list[str]:
        """A line of text for each encoder; asked for when each row was seen once."""
        return [_line(encoder, trial) for encoder, trial in self._trials]


def _line(encoder: EncodedColumn, trial: Trial) -> str:
    text = f"{encoder.column}: {encoder.encoder}, {words.plural(trial.width, 'number')} a row"
    if not trial.missing:
        return f"{text}, all rows kept from before"
    kept = (
        f", {words.count(trial.rows - trial.missing)} kept from before" if trial.missing < trial.rows else ""
    )
    seconds = trial.missing * (trial.row_seconds or 0.0)
    return f"{text}, {words.duration(seconds)} for {words.rows(trial.missing)}{kept}"
