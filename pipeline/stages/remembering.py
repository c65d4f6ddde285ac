"""What an audit takes from the history of its dataset when it opens a run, and what it adds at the end."""

from __future__ import annotations

from pipeline.config import AuditConfig
from pipeline.detection.people.earlier_verdicts import verdicts_of_run
from pipeline.history.folder import history_folder
from pipeline.history.rows import record_rows
from pipeline.history.verdicts import OF_AUDIT, Verdict, record_verdicts, standing_verdicts, write_snapshot
from pipeline.runs.directory import RunDirectory


def earlier_verdicts(config: AuditConfig, run: RunDirectory) -> list[Verdict]:
    """The verdicts in the history that a run goes by.

    Raises:
        InputError: the history is damaged.
    """
    return standing_verdicts(history_folder(run.path, config.name), run.run_id)


def recall(config: AuditConfig, run: RunDirectory) -> None:
    """Keep the verdicts of earlier audits in the run directory.

    Raises:
        InputError: the history is damaged.
    """
    write_snapshot(run.path, earlier_verdicts(config, run))


def remember(config: AuditConfig, run: RunDirectory) -> None:
    """Add to the history the rows of a finished run, and what people decided by its config.

    Raises:
        InputError: the history is damaged or can't be written to.
    """
    folder = history_folder(run.path, config.name)
    record_verdicts(folder, verdicts_of_run(config, run.path, OF_AUDIT))
    record_rows(folder, run.path, config.data.key is not None)
