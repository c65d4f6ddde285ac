"""Which files of a run are whole: every write is named with its checksum, and a resume trusts only what is named.

A run directory has a journal, the folder `.written/`. Before a file becomes visible, the process that writes it appends
a line with the file's path, size and checksum; when a step of several files is done, a line names them all. When a
stage ends, its lines become its manifest, `stages/<stage>.json`, which is written last.

Every process appends to a journal file of its own: thousands of chunks are thousands of lines, no list is rewritten for
each of them, and workers on several machines need no lock. Lines are not synced to disk one by one: a line that a power
failure takes away costs the file that it named, which is then made anew.
"""

from __future__ import annotations

from pipeline.artifacts.files import remove
from pipeline.artifacts.journal import begin_journal
from pipeline.artifacts.ledger import Ledger
from pipeline.artifacts.stages import begin_stage, damage, finish_stage, say, sweep
from pipeline.artifacts.steps import Step, left_over

__all__ = [
    "Ledger",
    "Step",
    "begin_journal",
    "begin_stage",
    "damage",
    "finish_stage",
    "left_over",
    "remove",
    "say",
    "sweep",
]
