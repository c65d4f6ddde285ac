"""The counting signals of further trainings with other seeds: averaged with the audit's own, they rank better."""

from __future__ import annotations

from dataclasses import replace

from pipeline.detection.signals.collect import counting_signals
from pipeline.detection.signals.evidence import gather, opinion_of
from pipeline.detection.suspicion import SignalValues
from pipeline.runs.context import AuditContext


def repeated_signals(context: AuditContext) -> list[SignalValues]:
    """The counting signals of `detection.repeats − 1` more trainings, named `<signal>_<number>`, from number 2 on."""
    found = []
    for number in range(2, context.config.detection.repeats + 1):
        repeat = context.repeat(context, number)
        signals = counting_signals(gather(repeat, opinion_of(repeat)))
        found += [replace(signal, name=f"{signal.name}_{number}") for signal in signals]
    return found
