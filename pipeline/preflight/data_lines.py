"""What `winnow check` says of the rows, their roles, and the files that the rule of detection uses."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import AuditConfig
from pipeline.data.checks import content_in_two_roles, duplicates
from pipeline.data.named_rows import trusted_rows
from pipeline.data.problems import place
from pipeline.data.survey import Survey
from pipeline.detection.noise.validation_doubts import FEW_ROWS
from pipeline.detection.people.answers import ReviewAnswers
from pipeline.detection.rules.trusted import needed_rows
from pipeline.preflight.result import OK, CheckLine
from pipeline.text import words


def data_lines(config: AuditConfig, survey: Survey) -> list[CheckLine]:
    rows, shards = survey.counts(), survey.shards
    repeated, shared = duplicates(shards), content_in_two_roles(shards)
    total = sum(rows.values()) + survey.dropped + survey.rare_rows
    chunks = sum(-(-kept.shard.rows // config.compute.chunk_rows) for kept in shards)
    text = (
        f"{words.rows(total)} in {words.plural(len(shards), 'shard')}, about {words.plural(chunks, 'chunk')}"
    )
    lines = [CheckLine("data", text, OK)]
    roles = ", ".join(f"{words.count(count)} {role}" for role, count in rows.items())
    lines.append(CheckLine("roles", roles, role_status(config, rows)))
    if repeated["groups"] or repeated["conflicting_rows"]:
        status = "warning: they are reported as duplicate-conflict" if repeated["conflicting_rows"] else OK
        several = words.count(repeated["conflicting_rows"])
        text = f"{words.rows(repeated['rows'])} occur more than once, {several} with several labels"
        lines.append(CheckLine("duplicates", text, status))
    if shared:
        text = f"{words.rows(shared)} {'stands' if shared == 1 else 'stand'} in two roles"
        lines.append(
            CheckLine(
                "", text, "warning: they make validation and holdout too easy; take them out of one role"
            )
        )
    first = survey.unreadable.first
    if first is not None:
        text = f"{words.rows(survey.unreadable.total)} can't be read"
        status = f"warning: they are set aside as corrupted; the first: {place(first.shard, first.row)}: {first.text}"
        lines.append(CheckLine("", text, status))
    if survey.dropped:
        lines.append(
            CheckLine(
                "", f"{words.rows(survey.dropped)} without a label", "warning: they take no part; label them"
            )
        )
    return lines


def rule_lines(config: AuditConfig, run_path: Path) -> list[CheckLine]:
    """Lines about the files and canaries that the rule of detection uses.

    Raises:
        InputError: a file is missing or names other rows.
    """
    detection, lines = config.detection, []
    if detection.trusted is not None:
        trusted, needed = len(trusted_rows(config, run_path)), needed_rows(detection.false_flag_rate)
        rate = words.percent(detection.false_flag_rate)
        few = f"warning: {words.count(needed)} are needed for a false-flag rate of {rate}, or nothing is removed"
        lines.append(CheckLine("trusted", words.rows(trusted), OK if trusted >= needed else few))
    if detection.answers is not None:
        answered = len(ReviewAnswers.load(Path(detection.answers)).verdicts)
        lines.append(CheckLine("answers", f"{words.count(answered)} given", OK))
    if detection.canaries:
        text = f"{words.plural(detection.canaries, 'label')} will be flipped on purpose, in the run alone"
        lines.append(
            CheckLine(
                "canaries", text, "warning: such a run exports nothing; leave them out to clean the data"
            )
        )
    return lines


def role_status(config: AuditConfig, rows: dict[str, int]) -> str:
    if not rows["holdout"] and config.verification.seeds:
        return "warning: without holdout rows nothing can be proved; give data.holdout, or data.split"
    if not rows["validation"]:
        return "warning: without validation rows there is no harm; give data.validation, or data.split"
    if rows["validation"] < FEW_ROWS:
        return f"warning: {rows['validation']} validation rows say little about harm and noise; give {FEW_ROWS} or more"
    return OK
