"""Writes the cleaned dataset: source files without removed rows, a quarantine of the originals, and a manifest.

Sources of another format than Parquet are exported twice: as Parquet, and in their own format.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import AuditConfig, digest
from pipeline.data.files import sha256_of
from pipeline.data.formats.copies import parquet_of, state_of
from pipeline.data.formats.hive import columns_of
from pipeline.data.formats.hugging_face import is_of_dataset, write_beside
from pipeline.data.formats.registry import format_of
from pipeline.errors import InputError, WinnowError
from pipeline.export.as_given import write_as_given
from pipeline.export.hive_labels import is_in_folder, with_label, write_layout
from pipeline.export.manifest import AS_GIVEN, EARLIER_MANIFEST, MANIFEST
from pipeline.export.rewrite import Changes, difference, rewrite
from pipeline.features.arrow import plain
from pipeline.runs.directory import RunDirectory, read_json, remove, write_atomically, write_json
from pipeline.tasks.multilabel import is_set
from pipeline.text.decisions import CHANGED, Decision
from pipeline.verification.settle import refused_by, settle

if TYPE_CHECKING:
    from pipeline.runs.context import AuditContext

CANARIES = "nothing was exported: labels were flipped on purpose in this run (detection.canaries)"
FINISHED = "exported"  # a small record for each finished file, until the manifest is there
HASHED_ROWS = 8192
WRITTEN = ("cleaned", "quarantine", "as_given")
"""The keys of a file of the manifest that have paths."""
EVIDENCE = {
    "winnow_decision": ("decision", pa.string()),
    "winnow_reasons": ("reasons", pa.list_(pa.string())),
    "winnow_suspicion": ("suspicion", pa.float64()),
    "winnow_self_influence": ("self_influence", pa.float64()),
    "winnow_validation_harm": ("validation_harm", pa.float64()),
    "winnow_suggested_label": ("suggested_label", pa.string()),
    "winnow_new_label": ("new_label", pa.string()),
    "winnow_decided_by": ("decided_by", pa.string()),
    "winnow_proposed": ("proposed", pa.string()),
}


@dataclass(frozen=True)
class Names:
    """The names of a shard's exported files below their folders: the Parquet files, and the one in its own format.

    `label_in_folder`: the label is the name of a Hive folder above the shard.
    """

    parquet: str
    given: str
    label_in_folder: bool


def export(context: AuditContext, proposed: bool = False) -> dict[str, Any]:
    """The stage `export`: settle the decisions, then export.

    Args:
        context: of the audit.
        proposed: export what detection proposed, whatever verification found.

    Returns:
        The facts of `export_rows`.
    """
    settle(context.run, context.config, as_proposed=proposed)
    return export_rows(context.run, context.config, proposed)


def export_rows(run: RunDirectory, config: AuditConfig, proposed: bool = False) -> dict[str, Any]:
    """Write `cleaned/`, `quarantine/` and the manifest by the decisions in rows.parquet.

    All shards with audited rows are exported. Their other rows (of roles that are declared clean, or without a label)
    stay as they are. Files that an interrupted export has finished are kept. The manifest is written last, after every
    file has been read again and "cleaned + quarantine = source" holds row for row.

    Args:
        run: the run.
        config: its config.
        proposed: noted in the manifest: the decisions are those that detection proposed.

    Returns:
        Counts of rows, files and bytes. If the gate refuses the export, `{"refused": True, "verdict": …}`; for a run
        with canaries, `{"refused": False, "skipped": why}`; in both cases nothing is written.

    Raises:
        InputError: a source file has changed since `prepare` read it.
    """
    if config.detection.canaries:
        return {"refused": False, "skipped": CANARIES}
    verdict = refused_by(run, config)
    if verdict is not None:
        return {"refused": True, "verdict": verdict}
    path = run / "rows.parquet"
    shards = _shard_names(path)
    for name in (MANIFEST, EARLIER_MANIFEST):
        (run / name).unlink(missing_ok=True)
    sources = {source["path"]: source["sha256"] for source in run.facts("prepare")["sources"]}
    files, relabelled = [], 0
    for shard, names in zip(shards, _names(shards, config.data.label)):
        _check_source(shard, sources[shard])
        changes = changes_of(_changed_rows(path, shard), config.data.label)
        relabelled += int(changes.relabel.sum())
        files.append(_export_file(run, shard, names, sources[shard], changes))
    exported = {
        Path(file["source"]): (run / file["as_given"], file["rows_kept"])
        for file in files
        if "as_given" in file
    }
    write_beside(exported)
    counts = {
        f"rows_{what}": sum(file[f"rows_{what}"] for file in files) for what in ("in", "kept", "removed")
    }
    counts["rows_relabelled"] = relabelled
    manifest = {
        "run_id": run.run_id,
        "config_hash": config.hash(),
        "decisions_hash": decisions_hash(path),
        "proposed": proposed,
        **counts,
        "files": files,
    }
    write_json(run / MANIFEST, manifest)
    remove(run / FINISHED)
    paths = [run / file[kind] for file in files for kind in WRITTEN if file.get(kind)]
    size = sum(state_of(p)[0] for p in paths)
    as_given = any("as_given" in file for file in files)
    written = {"files": len(files), "bytes": size, "as_given": as_given}
    return counts | written | {"refused": False, "proposed": proposed}


def _check_there(path: Path) -> None:
    if not path.exists():
        raise InputError(
            f"{path}: no such file", "The audit has not finished detection: run it to its end first."
        )


def _shard_names(path: Path) -> list[str]:
    """The shards of the rows in rows.parquet, in the order of the file."""
    _check_there(path)
    with pq.ParquetFile(path) as file:
        found: dict[str, None] = {}
        for batch in file.iter_batches(columns=["shard"]):
            found |= dict.fromkeys(batch["shard"].unique().to_pylist())
    return list(found)


def _changed_rows(path: Path, shard: str) -> pa.Table:
    """The rows of one shard that are removed or relabelled, with the columns that the export needs."""
    columns = ["row", *dict.fromkeys(column for column, _ in EVIDENCE.values())]
    wanted = (pc.field("shard") == shard) & pc.field("decision").isin(CHANGED)
    return pq.read_table(path, columns=columns, filters=wanted, partitioning=None)


def output_names(shards: list[str], depths: list[int] | None = None) -> list[str]:
    """The names of the shards with so many parts as `depths` says, by default the file name alone.

    Files of the same name get parent folders until their names differ.
    """
    parts = [Path(os.path.abspath(shard)).parts for shard in shards]  # noqa: PTH100 (resolve() follows links)
    depths = depths or [1] * len(shards)
    while True:
        names = ["/".join(p[-depth:]) for p, depth in zip(parts, depths)]
        counts = Counter(names)
        if len(counts) == len(names):
            return names
        depths = [depth + (counts[name] > 1) for depth, name in zip(depths, names)]


def _names(shards: list[str], label: str) -> list[Names]:
    """The names of the exported files of all shards.

    Folders that say something of the rows stay: those of a Hugging Face dataset and Hive folders.
    """
    depths = [max(1 + len(columns_of(Path(s))), 2 if is_of_dataset(Path(s)) else 1) for s in shards]
    given = output_names(shards, depths)
    in_folder = [is_in_folder(Path(shard), label) for shard in shards]
    parquet = [
        name.replace("=", "-") if labelled else name
        for name, labelled in zip(parquet_names(shards, given), in_folder)
    ]
    return [Names(*names) for names in zip(parquet, given, in_folder)]


def parquet_names(shards: list[str], names: list[str]) -> list[str]:
    """The names of the Parquet files for shards of any format: `reviews.csv` becomes `reviews.parquet`."""
    found = [
        name if format_of(Path(shard)) is None else str(Path(name).with_suffix(".parquet"))
        for shard, name in zip(shards, names)
    ]
    counts = Counter(found)
    return [new if new == old or counts[new] == 1 else f"{old}.parquet" for old, new in zip(names, found)]


def _check_source(shard: str, sha256: str) -> None:
    """Check that a source file still has the content that `prepare` read.

    Raises:
        InputError: the file can't be read or has changed.
    """
    try:
        found = sha256_of(shard)
    except OSError as error:
        raise InputError(
            f"{shard}: can't be read ({error.strerror})",
            f"Relative paths start from {Path.cwd()}: run the command where the audit was started.",
        ) from None
    if found != sha256:
        raise InputError(
            f"{shard}: changed since the audit read it",
            "Restore the file, or audit the data again: decisions name rows by their place in the file.",
        )


def changes_of(rows: pa.Table, label_column: str) -> Changes:
    """Turn the removed and relabelled rows of one shard into `Changes`."""
    rows = rows.sort_by("row")
    evidence = {name: _as_evidence(rows[column], kind) for name, (column, kind) in EVIDENCE.items()}
    return Changes(
        rows["row"].to_numpy().astype(np.int64),
        pc.equal(rows["decision"], Decision.RELABEL.word).to_numpy().astype(bool),
        plain(rows["new_label"].combine_chunks()),
        pa.table(evidence),
        label_column,
    )


def _as_evidence(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    values = plain(column.combine_chunks())
    if not pa.types.is_string(kind):
        return values.cast(kind)
    if is_set(values.type):
        return pa.array(
            [None if each is None else ", ".join(map(str, each)) for each in values.to_pylist()], kind
        )
    coded = values.dictionary_encode()  # texts are those of `str`: True, 3, 0.5
    written = pa.array([str(value) for value in coded.dictionary.to_pylist()], kind)
    return written.take(coded.indices)


def _export_file(
    run: RunDirectory, shard: str, names: Names, sha256: str, changes: Changes
) -> dict[str, Any]:
    """Write and check the exported files of one shard, unless that is done; returns the shard's manifest entry."""
    record = run / FINISHED / f"{digest(shard)}.json"
    wanted = digest([sha256, _changes_hash(changes)])
    if record.exists():
        finished = read_json(record)
        if finished["wanted"] == wanted and _is_there(run, finished["file"]):
            return finished["file"]
    cleaned, quarantine = run / "cleaned" / names.parquet, run / "quarantine" / names.parquet
    source, given = Path(shard), run / AS_GIVEN / names.given
    with ExitStack() as stack:
        copy = parquet_of(shard)
        if names.label_in_folder:
            copy = stack.enter_context(with_label(source, record.with_suffix(".parquet")))
        rows_in = _write_pair(shard, copy, changes, cleaned, quarantine)
        if not changes and sha256_of(str(cleaned)) != sha256_of(str(copy)):
            raise _failed_check(shard, "the copy differs from the source")
    removed = int((~changes.relabel).sum())
    file: dict[str, Any] = {
        "source": shard,
        "cleaned": f"cleaned/{names.parquet}",
        "quarantine": f"quarantine/{names.parquet}" if changes else None,
        "rows_in": rows_in,
        "rows_kept": rows_in - removed,
        "rows_removed": removed,
        "sha256_source": sha256,
        "sha256_cleaned": sha256_of(str(cleaned)),
        "sha256_quarantine": sha256_of(str(quarantine)) if changes else None,
    }
    if names.label_in_folder:
        written = write_layout(source, changes, cleaned, given)
        hashes = {str(path.relative_to(run.path)): sha256_of(str(path)) for path in written}
        file |= {"as_given": f"{AS_GIVEN}/{names.given}", "sha256_as_given": hashes}
    elif format_of(source) is not None:
        write_as_given(source, changes, cleaned, given)
        file |= {"as_given": f"{AS_GIVEN}/{names.given}", "sha256_as_given": sha256_of(str(given))}
    write_json(record, {"wanted": wanted, "file": file})
    return file


def _changes_hash(changes: Changes) -> str:
    found = hashlib.sha256(np.ascontiguousarray(changes.places).tobytes())
    for batch in changes.evidence.to_batches(HASHED_ROWS):
        found.update(json.dumps(batch.to_pylist(), default=str).encode())
    return found.hexdigest()


def _is_there(run: RunDirectory, file: dict[str, Any]) -> bool:
    """Whether the files of a manifest entry exist with the checksums of the entry."""
    for kind in WRITTEN:
        if file.get(kind):
            found = file[f"sha256_{kind}"]
            hashes = found if isinstance(found, dict) else {file[kind]: found}
            if any(not (run / n).exists() or sha256_of(str(run / n)) != each for n, each in hashes.items()):
                return False
    return True


def _write_pair(shard: str, source: Path, changes: Changes, cleaned: Path, quarantine: Path) -> int:
    """Write `cleaned` and, if there are changes, `quarantine`, and compare both with the source.

    Args:
        shard: the user's file, for messages.
        source: the Parquet file with its rows.
        changes: of its rows.
        cleaned: the file to write.
        quarantine: the file to write.

    Returns:
        The number of rows of the source.

    Raises:
        InputError: the source already has a column that the quarantine adds.
        WinnowError: the comparison fails.
    """
    with pq.ParquetFile(source) as file:
        rows, taken = file.metadata.num_rows, set(file.schema_arrow.names) & set(EVIDENCE)
    if not changes:
        quarantine.unlink(missing_ok=True)
        with write_atomically(cleaned) as temporary:
            shutil.copyfile(source, temporary)
        return rows
    if taken:
        raise InputError(
            f"{shard}: has a column {min(taken)!r}, which the quarantine would add",
            "Rename or drop it: it comes from the quarantine of an earlier audit.",
        )
    rewrite(source, changes, cleaned, quarantine)
    problem = difference(source, changes, cleaned, quarantine)
    if problem:
        cleaned.unlink()
        quarantine.unlink()
        raise _failed_check(shard, problem)
    return rows


def _failed_check(shard: str, problem: str) -> WinnowError:
    return WinnowError(
        f"{shard}: the exported files failed their check: {problem}",
        "Run the same command again; if it fails again, look at the disk.",
    )


def decisions_hash(path: Path) -> str:
    """SHA-256 over the row_key, decision and new_label of all rows in order, one JSON line for each row."""
    found = hashlib.sha256()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(HASHED_ROWS, columns=["row_key", "decision", "new_label"]):
            columns = (batch[name].to_pylist() for name in ("row_key", "decision", "new_label"))
            for key, decision, label in zip(*columns):
                line = json.dumps([key, decision, None if label is None else str(label)])
                found.update(f"{line}\n".encode())
    return found.hexdigest()
