"""The front door: searches every class of a finished training for backdoors, on the workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from pipeline.artifacts import Step
from pipeline.data.encoded import Chunk
from pipeline.detection.backdoor.alarm import Finding
from pipeline.detection.backdoor.pattern import Pattern, carried_by, from_tensors, to_tensors
from pipeline.detection.backdoor.search import FINDERS, KINDS, search_class
from pipeline.detection.backdoor.search_data import (
    as_inputs,
    chunk_scores,
    folder,
    material_path,
    read_material,
    write_material,
)
from pipeline.detection.backdoor.seeds import SEEDS
from pipeline.detection.backdoor.subject import Names
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import read_json, write_json
from pipeline.runs.tensors import save_tensors
from pipeline.training.setup import deterministic
from pipeline.workers.worker import run_data

MOST_CLASSES = 64
CARRIER = 0.5
"""Rows with a proved pattern have scores above this, all other rows below."""
SETS = "Backdoors are not looked for where rows have sets of labels."
RIGHT_LABELS = ", in rows that look rightly labelled"
NO_VALIDATION = "No search for backdoors: it pastes patterns onto validation rows, and there are none."
TOO_MANY = "Backdoors were searched for in the {} classes with the most suspect rows."
NOT_SEARCHED = "No backdoors were searched for in {}: no kind of pattern is known for such features."
SAMPLED = "Backdoors were searched for in a sample of {} train rows, and what was found in all rows."


@dataclass(frozen=True)
class Alarm:
    """A proved pattern.

    Attributes:
        target: the class, as in the source.
        target_class: its index.
        kind: of the pattern.
        description: of the pattern, in words.
        pattern: JSON values that the report shows.
        flip_rate: share of validation rows of other classes for which pasting turns the prediction into the target.
        purity: share of the carriers with the target's label.
        content, content_error: κ (0 for a backdoor, 1 for a natural feature) and its standard error; None if they can't
            be estimated.
        labels_right: whether the carriers belong to the class and only the pattern was added; they are then reviewed
            instead of removed.
        carriers: places of the carriers with the target's label among the train rows, int64.
    """

    target: Any
    target_class: int
    kind: str
    description: str
    pattern: dict[str, Any]
    flip_rate: float
    purity: float
    content: float | None
    content_error: float | None
    labels_right: bool
    carriers: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """The alarm as JSON, with the number of carriers as `rows` instead of their places."""
        tree = {name: value for name, value in vars(self).items() if name != "carriers"}
        return tree | {"rows": len(self.carriers)}


@dataclass(frozen=True)
class BackdoorResult:
    """The result of the search.

    Attributes:
        alarms: the proved patterns.
        scores: float64 `[train rows]` in [0, 1]; None without a search.
        notes: limits of the search, in sentences.
    """

    alarms: list[Alarm]
    scores: np.ndarray | None
    notes: list[str]

    def carriers(self, rows: int) -> np.ndarray:
        """The carriers of any alarm, bool `[train rows]`."""
        return self._carriers(rows, self.alarms)

    def wrong_carriers(self, rows: int) -> np.ndarray:
        """The carriers of alarms with wrong labels, bool `[train rows]`."""
        return self._carriers(rows, [alarm for alarm in self.alarms if not alarm.labels_right])

    @staticmethod
    def _carriers(rows: int, alarms: list[Alarm]) -> np.ndarray:
        found = np.zeros(rows, dtype=bool)
        for alarm in alarms:
            found[alarm.carriers] = True
        return found


def find_backdoors(context: AuditContext) -> BackdoorResult:
    """Search for backdoors, and write detection/backdoor.json and backdoor.safetensors.

    There is no search for regression, for sets of labels, and without validation rows; a note tells of the last two.
    """
    path, data = context.run.path, run_data(context.run.path)
    if data.encoding.task == "multilabel":
        return BackdoorResult([], None, [SETS])
    if data.encoding.task != "classification":
        return BackdoorResult([], None, [])
    if not data.count("validation"):
        return BackdoorResult([], None, [NO_VALIDATION])
    context.workers.run(write_material, [(path,)], ["backdoors: suspect rows"])
    searched, notes = _classes_to_search(path)
    done = 0

    def tick(*_: object) -> None:
        nonlocal done
        done += 1
        context.progress("detect: backdoors", done, len(searched), "classes")

    names = [f"backdoors: class {target}" for target in searched]
    context.workers.run(_search_task, [(path, target) for target in searched], names, tick)
    proved = [entry for target in sorted(searched) for entry in read_findings(_class_path(path, target))]
    alarms = alarms_path(path)
    save_patterns(alarms.with_suffix(".safetensors"), [pattern for _, pattern in proved])
    write_json(alarms.with_suffix(".json"), {"alarms": [facts for facts, _ in proved], "notes": notes})
    chunks = data.chunks("train")
    parts = context.workers.run(
        _judge_chunk,
        [(path, chunk) for chunk in chunks],
        [f"backdoors: chunk {chunk.id}" for chunk in chunks],
    )
    result = _assemble(np.concatenate(parts, axis=1), [facts for facts, _ in proved], notes)
    tree = {"alarms": [alarm.as_json() for alarm in result.alarms], "notes": notes}
    write_json(alarms.with_suffix(".json"), tree)
    return result


def _classes_to_search(run_path: Path) -> tuple[list[int], list[str]]:
    """The classes to search (all, or the MOST_CLASSES with the most suspect rows), and notes."""
    tensors = load_file(material_path(run_path))
    data, notes = run_data(run_path), []
    if len(tensors["places"]) < data.count("train"):
        notes.append(SAMPLED.format(len(tensors["places"])))
    unknown = [each.column for each in data.encoding.features if each.input.name not in FINDERS]
    if unknown:
        notes.append(NOT_SEARCHED.format(", ".join(unknown)))
    classes = data.encoding.outputs
    if classes <= MOST_CLASSES:
        return list(range(classes)), notes
    sure, labels = tensors["sure"], tensors["labels"]
    worst = [np.sort(sure[labels == target])[-SEEDS:].sum() for target in range(classes)]
    notes.append(TOO_MANY.format(MOST_CLASSES))
    return [int(target) for target in np.argsort(-np.array(worst), kind="stable")[:MOST_CLASSES]], notes


def alarms_path(run_path: Path) -> Path:
    """The path of the alarms without its suffix, which is .json for the facts and .safetensors for the patterns."""
    return run_path / "detection" / "backdoor"


def _class_path(run_path: Path, target: int) -> Path:
    return folder(run_path) / f"class-{target}"


def _search_task(run_path: Path, target: int) -> None:
    """Search one class and write the proved patterns (a task for a worker)."""
    path = _class_path(run_path, target)
    step = Step(path.with_suffix(".json"), path.with_suffix(".safetensors"))
    if step.done:
        return
    with deterministic():
        subject, scores = read_material(run_path)
        findings = search_class(subject, scores, target)
        names = subject.names
    label = run_data(run_path).encoding.decode_labels(np.array([target]))[0].as_py()
    save_patterns(path.with_suffix(".safetensors"), [finding.pattern for finding in findings])
    write_json(path.with_suffix(".json"), [facts_of(finding, names, label) for finding in findings])
    step.finish()


def facts_of(finding: Finding, names: Names, label: Any) -> dict[str, Any]:
    evidence, pattern = finding.evidence, finding.pattern
    value, error = evidence.content or (None, None)
    return {
        "target": label if isinstance(label, str | int | float | bool) else str(label),
        "target_class": finding.target,
        "kind": pattern.kind,
        "description": pattern.describe(names) + (RIGHT_LABELS if finding.labels_right else ""),
        "pattern": pattern.values(names),
        "flip_rate": evidence.flip_rate,
        "purity": evidence.purity,
        "content": value,
        "content_error": error,
        "labels_right": finding.labels_right,
    }


def save_patterns(path: Path, patterns: list[Pattern]) -> None:
    tensors = {
        f"{place}/{name}": torch.from_numpy(np.array(array))
        for place, pattern in enumerate(patterns)
        for name, array in to_tensors(pattern).items()
    }
    save_tensors(path, tensors)


def read_findings(path: Path) -> list[tuple[dict[str, Any], Pattern]]:
    """Read facts and patterns from `<path>.json` (a list, or a dict with `alarms`) and `<path>.safetensors`."""
    tree, tensors = read_json(path.with_suffix(".json")), load_file(path.with_suffix(".safetensors"))
    found: list[tuple[dict[str, Any], Pattern]] = []
    for place, facts in enumerate(tree["alarms"] if isinstance(tree, dict) else tree):
        prefix = f"{place}/"
        fields = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        found.append((facts, from_tensors(KINDS[facts["kind"]], fields)))
    return found


def read_alarms(run_path: Path) -> list[tuple[int, Pattern]]:
    """The target class and the pattern of every alarm of a run; empty without a search."""
    path = alarms_path(run_path)
    if not path.with_suffix(".json").exists():
        return []
    return [(facts["target_class"], pattern) for facts, pattern in read_findings(path)]


def _judge_chunk(run_path: Path, chunk: Chunk) -> np.ndarray:
    """Judge the rows of a chunk (a task for a worker).

    Returns:
        float64 `[1 + alarms, rows]`: the score of `seeds`, then for each alarm 1 for carriers.
    """
    with deterministic():
        data = run_data(run_path)
        rows = data.load(chunk)
        inputs, labels = as_inputs(rows, data), rows.labels.numpy()
        lines = [chunk_scores(run_path, chunk).astype(np.float64)]
        for target, pattern in read_alarms(run_path):
            lines.append((carried_by(pattern, inputs) & (labels == target)).astype(np.float64))
    return np.stack(lines)


def _assemble(judged: np.ndarray, proved: list[dict[str, Any]], notes: list[str]) -> BackdoorResult:
    """Build alarms with their carriers, and scores: below ½ from the scores of `seeds`, above ½ from the proofs."""
    scores = CARRIER * np.clip(judged[0], 0, 1)
    alarms = []
    for facts, line in zip(proved, judged[1:]):
        carriers = np.flatnonzero(line > 0)
        proof = CARRIER + (1 - CARRIER) * np.clip(facts["flip_rate"] * facts["purity"], 0, 1)
        scores[carriers] = np.maximum(scores[carriers], proof)
        alarms.append(Alarm(**facts, carriers=carriers))
    return BackdoorResult(alarms, scores, notes)
