"""Applies the verdicts that people gave in earlier audits, and makes verdicts of what they say in this one."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import ROLES, AuditConfig
from pipeline.data.decisions_file import DecisionLine
from pipeline.detection.people.decided_rows import People, Word, matching, read_people, words_of
from pipeline.history.verdicts import SNAPSHOT, Verdict, as_json, read_snapshot
from pipeline.text.decisions import Decider, Decision
from pipeline.workers.worker import run_data


def people_of_run(config: AuditConfig, run_path: Path) -> dict[str, People]:
    """What people decided: the verdicts of earlier audits, and over them what the config names.

    Returns:
        Role → place among its rows → decision.

    Raises:
        InputError: as in `read_people`.
    """
    earlier, now = earlier_people(config, run_path), read_people(config, run_path)
    return {role: {**earlier.get(role, {}), **now.get(role, {})} for role in {**earlier, **now}}


def earlier_people(config: AuditConfig, run_path: Path) -> dict[str, People]:
    """The decisions about rows that have a verdict of an earlier audit; the rows of roles declared right have none.

    A row that has the label which a person gave it earlier is right. A row whose new label is no label of the data any
    more is left for review.
    """
    by_features: dict[str, list[Verdict]] = defaultdict(list)
    for each in read_snapshot(run_path):
        by_features[each.features_hash].append(each)
    found: dict[str, dict[int, Word]] = {}
    if not by_features:
        return {}
    is_known = _label_test(run_path)
    for role in ROLES:
        if config.data.labels_are_clean(role):
            continue
        for places, table in matching(run_path, role, "features_hash", list(by_features), config.data.label):
            rows = (table[name].to_pylist() for name in ("row_key", "label", "features_hash"))
            for place, key, given, features in zip(places, *rows):
                verdict = _about(by_features[features], as_json(given))
                if verdict is not None:
                    word = _word_of(verdict, key, given, is_known)
                    found.setdefault(role, {})[place] = word
    return dict(found)


def _about(verdicts: list[Verdict], label: str) -> Verdict | None:
    """The verdict about a row with this label: its own, else the one that gave it the label."""
    own = next((each for each in verdicts if each.label == label), None)
    return own or next((each for each in verdicts if each.new_label == label), None)


def _word_of(verdict: Verdict, key: str, given: Any, is_known: Callable[[Any], bool]) -> Word:
    decision, label = Decision.of(verdict.decision), None
    if verdict.label != as_json(given):
        decision = Decision.KEEP  # the label is the one that a person gave
    elif verdict.new_label is not None:
        label = json.loads(verdict.new_label)
        if not is_known(label):
            decision, label = Decision.REVIEW, None
    line = DecisionLine(
        key, decision.word, None, verdict.by, verdict.at, verdict.note, f"{SNAPSHOT} ({verdict.run_id})"
    )
    return Word(decision, label, line, given, verdict.features_hash, Decider.HISTORY)


def _label_test(run_path: Path) -> Callable[[Any], bool]:
    """Whether a label is one of the data; targets are always."""
    encoding = run_data(run_path).encoding
    if encoding.task == "regression":
        return lambda label: True
    known = set(encoding.classes)
    return lambda label: known.issuperset(label if isinstance(label, list) else [label])


def verdicts_of_run(config: AuditConfig, run_path: Path, origin: str) -> list[Verdict]:
    """What people decided by the config of a finished run, as verdicts for later audits."""
    return verdicts_of_words(run_path, words_of(read_people(config, run_path)), origin)


def verdicts_of_words(run_path: Path, words: Iterable[Word], origin: str) -> list[Verdict]:
    """Make verdicts of decisions; who is to be relabelled without a label of the person's has the suggested one."""
    given = list(words)
    suggested = _suggested_labels(
        run_path,
        [each.line.key for each in given if each.decision == Decision.RELABEL and each.label is None],
    )
    found = []
    for word in given:
        label = suggested.get(word.line.key) if word.label is None else word.label
        relabelled = word.decision == Decision.RELABEL
        if relabelled and label is None:
            continue  # nobody knows which label was meant
        found.append(
            Verdict(
                features_hash=word.features_hash,
                label=as_json(word.given),
                decision=Decision(word.decision).word,
                new_label=as_json(label) if relabelled else None,
                row_key=word.line.key,
                by=word.line.by,
                at=word.line.at,
                note=word.line.note,
                run_id=run_path.name,
                origin=origin,
            )
        )
    return found


def _suggested_labels(run_path: Path, keys: list[str]) -> Mapping[str, Any]:
    if not keys:
        return {}
    wanted = pc.field("row_key").isin(pa.array(keys, pa.string()))
    rows = pq.read_table(
        run_path / "rows.parquet", columns=["row_key", "suggested_label"], filters=wanted, partitioning=None
    )
    return dict(zip(*(rows[name].to_pylist() for name in rows.column_names)))
