"""`attribution.ensemble`: averages scores over several trainings (Deng et al. 2024, arXiv 2405.17293).

Every training scores all rows. The average keeps the part of the scores that all trainings share and reduces the part
that is due to chance. The files of the audit's own training stay in `scores/own/`, so that an interrupted audit can
resume.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.runs.directory import write_atomically

AVERAGED = ("self_influence", "validation_harm", "group_harm")


def average_scores(members: list[Path], path: Path) -> None:
    """Write the scores of one chunk: the table of the first member, with means over all members in AVERAGED columns."""
    tables = [pq.read_table(member) for member in members]
    found = tables[0]
    for name in AVERAGED:
        place = found.schema.get_field_index(name)
        found = found.set_column(place, found.schema.field(place), mean([table[name] for table in tables]))
    with write_atomically(path) as temporary:
        pq.write_table(found, temporary)


def mean(columns: list[pa.ChunkedArray]) -> pa.Array:
    """The mean of columns of numbers or of lists of equal length; nulls stay null."""
    whole = [column.combine_chunks() for column in columns]
    kind = whole[0].type
    if whole[0].null_count:
        return whole[0]
    lists = pa.types.is_fixed_size_list(kind)
    numbers = [each.flatten() if lists else each for each in whole]
    total = numbers[0].cast(pa.float64())
    for each in numbers[1:]:
        total = pc.add(total, each.cast(pa.float64()))
    average = pc.divide(total, float(len(columns)))
    return (
        pa.FixedSizeListArray.from_arrays(average.cast(kind.value_type), kind.list_size) if lists else average
    )
