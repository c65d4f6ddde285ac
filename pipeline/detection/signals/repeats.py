"""The counting signals of further trainings with other seeds: averaged with the audit's own, they rank better."""

from __future__ import annotations

from dataclasses import replace

from pipeline.detection.signals.collect import counting_signals
from pipeline.detection.suspicion import Signal
from pipeline.runs.context import AuditContext


def repeated_signals(context: AuditContext) -> list[Signal]:
    """The counting signals of `detection.repeats − 1` more trainings, named `<signal>_<number>`, from number 2 on."""
    return [
        replace(signal, name=f"{signal.name}_{number}")
        for number in range(2, context.config.detection.repeats + 1)
        for signal in counting_signals(context.repeat(context, number))
    ]
