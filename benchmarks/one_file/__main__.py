"""One noisy file, as a stranger brings it: Winnow with `winnow init` and defaults beside what people use today.

    python -m benchmarks.one_file [--data DIR] [--only SET[/NOISE[/RATE]] ...] [--ranking-only | --core] [--quick]

A configuration is a set, a kind and rate of noise and a seed; its labels are wrong in every part of its one file.
What is measured about it comes in parts, each kept as soon as it is done, so that the same command goes on after an
interruption:

- peers: cleanlab and Datalab on a usual model, out of fold. Doesn't depend on this project's code.
- audit: `winnow init FILE`, then an audit by defaults without its retrainings: ranking, flags, estimate, suggestions.
- gains: accuracy on true labels of test rows that are in no audit, as given, without exactly the planted rows, and
  without those that cleanlab flags; five retrainings each by the recipe of `winnow init`.
- core (a part of the configurations): the whole audit by defaults, and the same accuracy for its arms. It counts as
  the audit where that is not there.
- naming (of files with a column of sources, one bad or none, with more seeds): the source that is named, from the
  stages of an audit that decide it.

`--ranking-only`: peers and audits; `--peers`: peers and gains; `--core`: what the core needs; `--naming`: naming;
`--done`: sum up what is there; `--fresh`: do what other commits made again.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.detection_findings import load_findings, save_findings
from benchmarks.one_file import audits, configurations
from benchmarks.one_file.arms import Retrainings, prepare_rows, without
from benchmarks.one_file.configurations import Configuration, OneFile, make_file
from benchmarks.one_file.measures import Row, accuracy_rows, audit_rows, naming_row, peer_rows, row
from benchmarks.one_file.naming import source_that_is_named
from benchmarks.one_file.peers import FLAGGED, MAIN, peers
from benchmarks.one_file.pieces import AUDIT, CORE, GAINS, NAMING, PEERS, Pieces
from benchmarks.one_file.sets import SETS, available
from benchmarks.one_file.summary import summarise
from benchmarks.results import CACHE, HOME, write_lines
from pipeline.config import load_config
from pipeline.errors import WinnowError


class Work:
    """One configuration: its file is made when a part needs it, in a folder that goes when the work is done."""

    def __init__(self, configuration: Configuration, data: Path, pieces: Pieces, folder: Path):
        self.configuration, self.pieces = configuration, pieces
        self._data, self._folder = data, folder
        self._file: OneFile | None = None

    @property
    def file(self) -> OneFile:
        if self._file is None:
            self._file = make_file(self.configuration, self._data, self._folder)
        return self._file

    @property
    def config(self) -> Path:
        """What `winnow init` wrote about the file."""
        path = self._folder / "config.yaml"
        if not path.exists():
            audits.init(self.file.path, path)
        return path

    def prepared(self) -> Path:
        path = self._folder / "retrained"
        return path if path.exists() else prepare_rows(load_config(self.config), self.file, path)

    def peers(self) -> list[Row]:
        opinions = list(peers(self.configuration.known, self.file.rows, self.configuration.seed))
        path = self.pieces.path(PEERS, self.configuration, "safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_findings(path, [opinion.finding for opinion in opinions], self.file.wrong)
        share = row("planted", "share", float(self.file.wrong.mean()), n=len(self.file.wrong))
        return [share, *(each for opinion in opinions for each in peer_rows(opinion, self.file.wrong))]

    def audit(self) -> list[Row]:
        found = audits.audit(self.file, self.config, self._folder / "audit", audits.RANKING_ONLY)
        return self.rows_of(found)

    def rows_of(self, found: audits.Audited) -> list[Row]:
        """What an audit says against the truth; its rankings are kept beside."""
        path = self.pieces.path(AUDIT, self.configuration, "safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_findings(path, found.findings, self.file.wrong)
        return audit_rows(self.file, found, self.file.noisy.bad)

    def naming(self) -> list[Row]:
        named = source_that_is_named(self.config, self._folder / "naming")
        return [naming_row(named, self.file.noisy.bad)]

    def gains(self) -> list[Row]:
        return accuracy_rows(self.accuracies({}))

    def core(self) -> list[Row]:
        begin = time.perf_counter()
        found = audits.audit(self.file, self.config, self._folder / "core")
        seconds = time.perf_counter() - begin
        shutil.rmtree(self._folder / "core")
        rows = self.rows_of(found)
        if (
            self.pieces.read(AUDIT, self.configuration) is None
        ):  # a whole audit ranks as one without retrainings
            self.pieces.write(AUDIT, self.configuration, rows, seconds)
        facts = {name: found.facts[name] for name in ("verdict", "exported", "cleaned - as_given")}
        return [row("winnow", "verification", facts["verdict"], **facts), *rows] + accuracy_rows(
            self.accuracies(found.arms)
        )

    def accuracies(self, arms: dict[str, audits.Arm]) -> dict[str, list[float]]:
        """As given and the arms that depend on no audit, and `arms`; nothing exported leaves the rows as given."""
        nothing = without(self.file.wrong & False)
        usual = {"as_given": nothing, "planted": without(self.file.wrong)}
        path = self.pieces.path(PEERS, self.configuration, "safetensors")
        if path.exists():
            main = load_findings(path)[0][MAIN[self.configuration.known.kind]]
            usual["cleanlab"] = without(main.flags[FLAGGED])
        if arms:
            usual["exported"] = nothing
        retrainings = Retrainings(self.pieces.path("retrainings", self.configuration))
        return retrainings.scores(load_config(self.config), usual | arms, self.prepared)


def work_through(
    planned: Sequence[Configuration], parts: Sequence[str], data: Path, pieces: Pieces, fresh: bool
) -> None:
    """Do what is not done: the parts of a configuration one after the other. A part that fails is said and left."""
    for part in parts:
        for each in planned:
            if part == CORE and not each.is_core:
                continue
            if pieces.read(part, each) is not None and not (fresh and pieces.is_stale(part, each)):
                continue
            with tempfile.TemporaryDirectory(prefix="one-file-") as folder:
                work = Work(each, data, pieces, Path(folder))
                do: dict[str, Callable[[], list[Row]]] = {
                    PEERS: work.peers,
                    AUDIT: work.audit,
                    GAINS: work.gains,
                    CORE: work.core,
                    NAMING: work.naming,
                }
                begin = time.perf_counter()
                try:
                    rows = do[part]()
                except WinnowError as error:
                    rows = [row("winnow", "failed", str(error))]
                seconds = time.perf_counter() - begin
                pieces.write(part, each, rows, seconds)
                failed = f": {rows[0]['value']}" if rows[0]["metric"] == "failed" else ""
                print(f"{part} {each.task}, seed {each.seed}: {seconds:.0f} s{failed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_file")
    parser.add_argument("--data", type=Path, default=HOME / "data", help="folder of the original sets")
    parser.add_argument(
        "--cache", type=Path, help="where pieces are kept; by default benchmarks/cache/one_file"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="SET[/NOISE[/RATE]]")
    parser.add_argument("--seeds", type=int, default=configurations.SEEDS)
    parser.add_argument("--quick", action="store_true", help="two small sets, rankings only, kept apart")
    parser.add_argument("--fresh", action="store_true", help="do the audits of other commits again")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--ranking-only", action="store_true", help="no retrainings")
    which.add_argument("--core", action="store_true", help="only what is retrained")
    which.add_argument(
        "--peers", action="store_true", help="only what does not depend on this project's audits"
    )
    which.add_argument(
        "--naming", action="store_true", help="only files with a column of sources, more seeds"
    )
    which.add_argument("--done", action="store_true", help="sum up what is done, and do no more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cache = arguments.cache or CACHE / "one_file"
    pieces = Pieces(cache.with_name(f"{cache.name}_quick") if arguments.quick else cache)
    there = list(SETS) if arguments.done else available(list(SETS), arguments.data)
    everything = configurations.plan(there, arguments.seeds)
    named = [each for each in configurations.naming_plan(there) if each not in everything]
    if arguments.quick:
        everything, named = configurations.quick_plan(), []
    planned = [*everything, *named] if arguments.naming or arguments.done else everything
    if arguments.naming:
        planned = [each for each in planned if (each.noise, each.rate) in configurations.NAMING_NOISES]
    planned = configurations.only(planned, arguments.only) if arguments.only else planned
    if arguments.core:
        planned = [each for each in planned if each.is_core]
    parts = [PEERS, AUDIT, GAINS, CORE]
    if arguments.ranking_only or arguments.quick:
        parts = [PEERS, AUDIT]
    elif arguments.peers:
        parts = [PEERS, GAINS]
    elif arguments.naming:
        parts = [NAMING]
    if not arguments.done:
        work_through(planned, parts, arguments.data, pieces, arguments.fresh)
    rows = summarise([*everything, *named], pieces)
    path = write_lines("one_file", rows, pieces.folder if arguments.quick else None)
    print(path)


if __name__ == "__main__":
    main()
