"""Steps: work of a stage whose files are only of use together."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts.files import files_under, inside
from pipeline.artifacts.journal import append, root_of
from pipeline.artifacts.ledger import Ledger


class Step:
    """Work whose files are only of use together: `done` when all of them are whole, and `finish` was called.

    places: the files and folders that it writes.
    """

    def __init__(self, *places: Path):
        self._root = root_of(places[0])
        root = self._root or Path("/")
        self._places = [str(place.absolute().relative_to(root)) for place in places]

    @property
    def done(self) -> bool:
        if self._root is None:
            return False
        ledger = Ledger(self._root)
        name = self._places[0]
        found = [
            *ledger.steps.get(name, []),
            *(each.steps[name] for each in ledger.manifests.values() if name in each.steps),
        ]
        return any(all(ledger.state(ledger.root / each) == "whole" for each in files) for files in found)

    @property
    def intact(self) -> bool:
        """Whether everything is whole that was written so far, so that interrupted work can go on."""
        if self._root is None:
            return True
        ledger = Ledger(self._root)
        names = [name for name in ledger.written if inside(name, self._places)]
        states = {name: ledger.state(ledger.root / name) for name in names}
        return all(
            state == "whole" or (state == "is missing" and not ledger.was_there(name))
            for name, state in states.items()
        )

    def finish(self, *passing: Path) -> None:
        """Name the files that are there. passing: files that are removed now."""
        if self._root is not None:
            left = {str(path.absolute().relative_to(self._root)) for path in passing}
            there = files_under(self._root / place for place in self._places)
            names = [str(path.relative_to(self._root)) for path in there if not path.is_symlink()]
            files = [name for name in names if name not in left]
            append(self._root, {"step": self._places[0], "files": files})
        for path in passing:
            path.unlink(missing_ok=True)


def left_over(path: Path) -> bool:
    """Whether a file lies as an interrupted step wrote it, so that the step may write it again."""
    root = root_of(path)
    return root is not None and Ledger(root).state(path) == "whole" and not Step(path).done
