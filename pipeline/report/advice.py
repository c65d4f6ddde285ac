"""The next steps: sentences that are chosen by what the run found."""

from __future__ import annotations

from pipeline.config import AuditConfig
from pipeline.report.verdict import Summary, disarmed
from pipeline.text import words
from pipeline.text.decisions import CHANGED, FLAGGED, Decision
from pipeline.text.reasons import BACKDOOR

NEARLY_NONE = 0.005
"""Up to this estimated share of wrong labels, the data counts as free of errors."""


def next_steps(summary: Summary, config: AuditConfig, path: str) -> list[str]:
    """The next steps, in the order of their importance; `path` is the run directory for display."""
    decisions, written = summary["decisions"], summary["export"]["cleaned"]
    steps = list(summary.get("warnings", []))
    if summary["verdict"] == "improved" and written:
        steps.append(
            f"Train on {path}/{written}. What was taken out lies beside it in quarantine/, each row with "
            "its reasons."
        )
    elif summary["verdict"] == "no evidence" and disarmed(summary) and written:
        steps.append(
            f"Train on {path}/{written}: a model trained on the data as given obeys a trigger, one trained on "
            "these doesn't, and both are about as good otherwise."
        )
    elif summary["verdict"] == "no evidence":
        steps.append(
            "Keep training on the data as given unless the rows below convince you. More retrainings "
            "(verification.seeds) or a larger holdout make the interval narrower."
        )
    elif summary["verdict"] == "worse":
        steps.append(
            "Do not train on a cleaned dataset from this run: the flagged rows may be rare or hard instead "
            f"of wrong. {words.sentence(_fewer(config))}, or set detection.rule: ranking and judge them by hand."
        )
    elif summary["verdict"] == "not tested":
        steps.append(_untested(summary, config))
    if any(decisions[name] for name in CHANGED):
        steps.append(
            f"Look at the rows that were only just flagged. If most of them look right, {_fewer(config)} and "
            f"{again(config)}: only detection and what follows is redone."
        )
    if decisions[Decision.REVIEW.word]:
        steps.append(
            f"Go through the {words.rows(decisions[Decision.REVIEW.word])} marked review, the most suspicious first. "
            "They stay in the dataset until somebody decides."
        )
    if any(decisions[name] for name in FLAGGED) and not states_precision(summary):
        steps.append(
            f"To state the precision of what is removed, answer for a sample: winnow review {path} --sample 200. "
            "A look at some 60 rows can be enough."
        )
    if summary["rows"].get("validation") and not config.data.validation_is_clean:
        steps.append(
            "If you know that the validation labels are right, set data.validation_is_clean: true; harm to "
            "validation then counts as evidence."
        )
    if BACKDOOR.code in summary["reasons"]:
        steps.append("Find out where the rows with a suspected backdoor came from before you train on them.")
    return steps


def _fewer(config: AuditConfig) -> str:
    """The change of the config that makes the rule remove fewer rows."""
    if config.detection.rule == "trusted":
        return "lower detection.false_flag_rate"
    if config.detection.rule == "reviewed":
        return "ask for a higher detection.precision"
    return "lower detection.max_removed"


def again(config: AuditConfig) -> str:
    """The command after a change of the rule; a review is for one precision, so that another one needs a new review."""
    if config.detection.rule == "reviewed":
        return "begin a new review (winnow review RUN --sample 200 --precision)"
    return "run the same command again"


def _nothing_removed(summary: Summary) -> str:
    """What follows if no row is removed. The data is called usable only if nothing speaks against it."""
    noise = summary["estimated_noise"]
    if summary["decisions"][Decision.REVIEW.word]:
        return f"{words.rows(summary['decisions'][Decision.REVIEW.word])} wait for somebody to look at them."
    if noise is None:
        return "How many labels are wrong could not be estimated."
    if noise["value"] > NEARLY_NONE:
        return "Some labels look wrong, but for no single row is this certain enough."
    return "The data can be used as they are."


def states_precision(summary: Summary) -> bool:
    promise = summary.get("promise")
    return promise is not None and promise["precision"] is not None


def _untested(summary: Summary, config: AuditConfig) -> str:
    if config.detection.canaries:
        return (
            "Run the audit without detection.canaries to clean the data: this run was for its recall alone."
        )
    if config.detection.rule == "ranking":
        return "Nothing was removed, as asked (detection.rule: ranking). The flagged rows are a review queue."
    if not any(summary["decisions"][name] for name in CHANGED):
        return f"Nothing was to be removed, so there was nothing to test. {_nothing_removed(summary)}"
    if config.verification.seeds == 0:
        return "Set verification.seeds to 5 to find out by retraining whether cleaning helps."
    return "Whether cleaning helps is not known: remove what stood in the way of the test and run it again."
