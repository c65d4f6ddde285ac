"""Forensics: is there a trigger in some inputs, and which train rows planted it?

Inputs that fooled the model narrow the search: they carry the pattern themselves, and the train rows with the most
influence on their predictions may carry it too. Both serve as seeds of the usual search. A reconstructed pattern must
occur in the queries and in train rows of the predicted class, and pasting it must turn the predictions for validation
rows of other classes into this class. The search is narrower than the blind one, so that fewer carriers are enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from pipeline.data.encoded import Chunk
from pipeline.data.source_rows import read_rows
from pipeline.detection.backdoor.additive import Additive
from pipeline.detection.backdoor.alarm import (
    LEAST_PURITY,
    MOST_CONTENT,
    NEEDS_CONTENT,
    Finding,
    may_be_alarm,
)
from pipeline.detection.backdoor.backdoors import facts_of, read_findings, save_patterns
from pipeline.detection.backdoor.pattern import Pattern, carried_by
from pipeline.detection.backdoor.search import LEAST_CLASS, candidates, proved
from pipeline.detection.backdoor.search_data import (
    as_inputs,
    final_predictor,
    material_path,
    read_material,
    write_material,
)
from pipeline.detection.backdoor.seeds import SEEDS
from pipeline.detection.backdoor.subject import Inputs, Subject, count, select, spread
from pipeline.detection.backdoor.verify import Evidence, is_natural
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import write_atomically, write_json
from pipeline.training.setup import deterministic
from pipeline.workers.worker import run_data

MOST_TARGETS = 16
MOST_QUERIES = 24
"""The windows and words of at most so many queries of a predicted class are tried."""
LEAST_CARRIERS = 4
LEAST_FLIP = 0.2
"""The least flip rate; it is lower than for an alarm, since the queries themselves show that the trigger works."""
LEAST_MATCHED = 0.5
"""The least share of a class's queries that must carry the pattern."""
NO_VALIDATION = "No search for a trigger: it pastes patterns onto validation rows, and there are none."
TOO_MANY = "A trigger was searched for in the {} most predicted classes of the queries."


@dataclass(frozen=True)
class Forensics:
    """The result of forensics.

    Attributes:
        findings: facts of each trigger, best proof first: those of an alarm (backdoor.json), `rows` (how many train
            rows carry it) and `queries` (places of the queries that carry it).
        notes: limits of the search, in sentences.
        path: of the patterns, without its suffix.
    """

    findings: list[dict[str, Any]]
    notes: list[str]
    path: Path


@dataclass(frozen=True)
class Suspects:
    """The queries of one predicted class, and the train rows with the most influence on them.

    Attributes:
        target: the predicted class.
        queries: places, int64.
        supporters: places among the train rows, int64, the strongest first.
    """

    target: int
    queries: np.ndarray
    supporters: np.ndarray


def investigate(
    context: AuditContext, inputs: Inputs, predictions: np.ndarray, supporters: np.ndarray, folder: Path
) -> Forensics:
    """Search for a trigger that queries share; write backdoor.json, backdoor.safetensors and carriers.parquet.

    Args:
        context: of the audit.
        inputs: of the queries.
        predictions: int64 `[queries]`.
        supporters: the train rows with the most influence for each query, strongest first, filled up with −1; int64
            `[queries, top]`.
        folder: for the files.
    """
    path = context.run.path
    kept = folder / "backdoor"
    if not run_data(path).count("validation"):
        return _write(Forensics([], [NO_VALIDATION], kept), path, [])
    context.workers.run(write_material, [(path,)], ["trace: search material"])
    groups, notes = suspects(predictions, supporters)
    done = 0

    def tick(*_: object) -> None:
        nonlocal done
        done += 1
        context.progress("trace: triggers", done, len(groups), "classes")

    tasks = [(path, select(inputs, spread(group.queries, MOST_QUERIES)), group) for group in groups]
    found = context.workers.run(
        _search_queries, tasks, [f"trace: triggers of class {group.target}" for group in groups], tick
    )
    findings = [entry for entries in found for entry in entries]
    save_patterns(kept.with_suffix(".safetensors"), [pattern for _, pattern in findings])
    facts = [
        each | {"queries": matching(pattern, inputs, predictions == each["target_class"])}
        for each, pattern in findings
    ]
    write_json(kept.with_suffix(".json"), {"alarms": facts, "notes": notes})
    chunks = run_data(path).chunks("train")
    carried = context.workers.run(
        _carriers_of_chunk,
        [(path, chunk, kept.absolute()) for chunk in chunks],
        [f"trace: carriers in chunk {chunk.id}" for chunk in chunks],
    )
    places = [np.flatnonzero(line) for line in np.concatenate(carried, axis=1)]
    facts = [each | {"rows": len(rows)} for each, rows in zip(facts, places)]
    return _write(Forensics(facts, notes, kept), path, places)


def _write(found: Forensics, run_path: Path, places: list[np.ndarray]) -> Forensics:
    """Write backdoor.json, and carriers.parquet with a line for each trigger and train row that carries it."""
    write_json(found.path.with_suffix(".json"), {"alarms": found.findings, "notes": found.notes})
    rows = read_rows(run_path, np.concatenate([np.empty(0, np.int64), *places]))
    trigger = np.repeat(np.arange(len(places)), [len(each) for each in places])
    table = rows.at(np.concatenate([np.empty(0, np.int64), *places]))
    labels = [found.findings[each]["target"] for each in trigger.tolist()]
    table = table.add_column(0, "trigger", pa.array(trigger, pa.int64()))
    table = table.append_column("label", pa.array(labels))
    with write_atomically(found.path.with_name("carriers.parquet")) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return found


def suspects(predictions: np.ndarray, supporters: np.ndarray) -> tuple[list[Suspects], list[str]]:
    """The queries by predicted class, the most frequent class first; and notes."""
    classes, counts = np.unique(predictions, return_counts=True)
    ordered = classes[np.argsort(-counts, kind="stable")]
    groups = []
    for target in ordered[:MOST_TARGETS]:
        mine = np.flatnonzero(predictions == target)
        groups.append(Suspects(int(target), mine, most_behind(supporters[mine])))
    return groups, [TOO_MANY.format(MOST_TARGETS)] if len(classes) > MOST_TARGETS else []


def most_behind(supporters: np.ndarray) -> np.ndarray:
    """The train rows in `supporters` `[queries, top]`, those that are strong for many queries first, `[rows]`."""
    points = np.broadcast_to(np.arange(supporters.shape[1], 0, -1), supporters.shape)
    there = supporters >= 0
    rows, where = np.unique(supporters[there], return_inverse=True)
    total = np.bincount(where, points[there], len(rows))
    return rows[np.argsort(-total, kind="stable")]


def _search_queries(run_path: Path, inputs: Inputs, group: Suspects) -> list[tuple[dict[str, Any], Pattern]]:
    """The facts and patterns of the triggers that are proved for the queries of one class (a task for a worker)."""
    with deterministic():
        subject, _ = read_material(run_path)
        places = load_file(material_path(run_path))["places"]
        findings = _search_pattern(
            subject, inputs, group.target, in_search(group.supporters, places), run_path
        )
    label = run_data(run_path).encoding.decode_labels(np.array([group.target]))[0].as_py()
    return [(facts_of(finding, subject.names, label), finding.pattern) for finding in findings]


def in_search(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The places of some train rows among the searched rows; rows that are not searched are left out."""
    at = np.searchsorted(places, rows).clip(max=len(places) - 1)
    return at[places[at] == rows]


def _search_pattern(
    subject: Subject, inputs: Inputs, target: int, supporters: np.ndarray, run_path: Path
) -> list[Finding]:
    """The proved patterns that queries and train rows of the target share; `supporters` are places in `subject`."""
    own = subject.labels == target
    if own.sum() < LEAST_CLASS or not (subject.validation_labels != target).any():
        return []
    features = final_predictor(run_path).features(inputs)
    both = _with_queries(subject, inputs, features, target)
    queries = np.arange(len(subject.labels), len(both.labels))
    behind = supporters[own[supporters]][:SEEDS]
    similar = _most_similar(subject.features, features, own)[:SEEDS]
    lists = [np.concatenate([queries, behind]), np.concatenate([queries, similar]), behind, similar]
    found = candidates(both, [each for each in lists if len(each)], target)
    matching = (pattern for pattern in found if carried_by(pattern, inputs).mean() >= LEAST_MATCHED)
    return proved(subject, target, matching, _may_be_proved, is_proved)


def _with_queries(subject: Subject, inputs: Inputs, features: np.ndarray, target: int) -> Subject:
    """The searched rows, followed by the queries as rows of the target."""
    number = count(inputs)
    sure = np.zeros((number, subject.probabilities.shape[1]), dtype=np.float32)
    sure[:, target] = 1
    return replace(
        subject,
        inputs={kind: np.concatenate([rows, inputs[kind]]) for kind, rows in subject.inputs.items()},
        labels=np.concatenate([subject.labels, np.full(number, target)]),
        probabilities=np.concatenate([subject.probabilities, sure]),
        features=np.concatenate([subject.features, features]),
    )


def _most_similar(features: np.ndarray, of_queries: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The places of the class's rows, those nearest to any query first, by the cosine of penultimate features."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    asked = of_queries / np.maximum(np.linalg.norm(of_queries, axis=1, keepdims=True), 1e-12)
    places = np.flatnonzero(own)
    return places[np.argsort(-(unit[places] @ asked.T).max(1), kind="stable")]


def _may_be_proved(pattern: Pattern, evidence: Evidence, labels: np.ndarray, target: int) -> bool:
    """Whether a pattern passes the thresholds that do not need its content."""
    carriers = int((evidence.carriers & (labels == target)).sum())
    if evidence.purity < LEAST_PURITY or evidence.flip_rate < LEAST_FLIP:
        return False
    if isinstance(pattern, Additive):  # a blend of few rows is their mean
        return may_be_alarm(pattern, evidence, labels, target)
    return carriers >= LEAST_CARRIERS


def is_proved(pattern: Pattern, evidence: Evidence, labels: np.ndarray, target: int) -> bool:
    """Whether a pattern is proved: it is an alarm of the blind search, or its carriers don't look like the class."""
    if pattern.kind not in NEEDS_CONTENT and may_be_alarm(pattern, evidence, labels, target):
        return True
    natural = evidence.natural_part or is_natural(evidence.in_validation, evidence.natural)
    if evidence.content is None or natural:
        return False
    value, error = evidence.content
    return value + 2 * error <= MOST_CONTENT


def matching(pattern: Pattern, inputs: Inputs, predicted: np.ndarray) -> list[int]:
    """The places of the queries that are predicted as the target and carry the pattern."""
    return np.flatnonzero(carried_by(pattern, inputs) & predicted).tolist()


def _carriers_of_chunk(run_path: Path, chunk: Chunk, path: Path) -> np.ndarray:
    """The rows of a train chunk with the target's label that carry each trigger, bool (a task for a worker).

    Returns:
        bool `[triggers, rows]`.
    """
    data = run_data(run_path)
    rows = data.load(chunk)
    inputs, labels = as_inputs(rows, data), rows.labels.numpy()
    lines = [
        carried_by(pattern, inputs) & (labels == facts["target_class"])
        for facts, pattern in read_findings(path)
    ]
    return np.stack(lines) if lines else np.zeros((0, len(rows)), dtype=bool)
