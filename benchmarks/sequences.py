"""A language model with a large vocabulary: memory of refined attribution, and time of a step of its solve.

    python -m benchmarks.sequences [--rows 64] [--turns 3] [--quick]

The model has the shape of GPT-2: 12 layers, 50,257 words, 256 tokens, a head tied to the embedding; its width is 64. It
is trained with AdamW for a few steps on random tokens, since time and memory do not depend on what the tokens are.

Memory is that of a process of its own that calls `attribute(method="source_refined")` on all rows: the largest
resident size, less what it was after the imports. Linux tells it. Time is that of one product with the Gauss–Newton
matrix of the rows, which is a step of the solve, beside a plain forward and backward pass over the same rows. The two
take turns on one thread, with at most 16 rows; times are CPU seconds.

Then a task of real texts says whether the diagonal costs faithfulness: `benchmarks/sequences_lds.py`. Finished parts
are kept under benchmarks/cache/sequences, so that the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.results import CACHE, write_results
from benchmarks.sequences_lds import TOKENS as TOKENS_LDS
from benchmarks.sequences_lds import VOCABULARY as VOCABULARY_LDS
from benchmarks.sequences_lds import lds_rows
from benchmarks.timing import Row, ratios, seconds_rows, summary, timed, turns
from pipeline.attribution import (
    Batch,
    RefinedSettings,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    coverage,
    covered_layers,
    cross_entropy,
)
from pipeline.attribution.curvature.gauss_newton import gauss_newton_products
from pipeline.runs.directory import read_json, write_json

VOCABULARY, TOKENS, WIDTH, LAYERS, HEADS = 50_257, 256, 64, 12, 4
ROWS, TURNS, PART, QUERIES = 64, 3, 16, 4
ITERATIONS = 1
"""Of the solve whose memory is measured; more steps and checkpoints take longer and hold no more at a time."""
MEMORY_TARGET, TIME_TARGET = "≤ 4", "≤ 20"
TASK = "gpt2_shaped"


class Block(nn.Module):
    """A layer of GPT-2: attention and a feed-forward network, each behind a normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        parts = self.attend(self.first(hidden)).chunk(3, -1)
        query, key, value = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in parts)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.project(seen.transpose(1, 2).flatten(2))
        return hidden + self.narrow(functional.gelu(self.widen(self.second(hidden))))


class LanguageModel(nn.Module):
    """A causal language model with the parts of GPT-2, whose head is its embedding."""

    def __init__(
        self,
        vocabulary: int = VOCABULARY,
        tokens: int = TOKENS,
        width: int = WIDTH,
        layers: int = LAYERS,
        heads: int = HEADS,
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for parameter in (self.words.weight, self.places.weight):
            nn.init.normal_(parameter, std=0.02)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


def small_model() -> LanguageModel:
    """The model of `benchmarks/sequences_lds.py`."""
    return LanguageModel(VOCABULARY_LDS, TOKENS_LDS, width=32, layers=2, heads=2)


def made(rows: int) -> tuple[LanguageModel, Tensor, Tensor]:
    """The model, tokens and the tokens that follow."""
    torch.manual_seed(0)
    text = torch.randint(VOCABULARY, (rows, TOKENS + 1))
    return LanguageModel(), text[:, :-1], text[:, 1:]


def plain_pass(model: nn.Module, tokens: Tensor, labels: Tensor) -> None:
    """A forward and backward pass over the rows, two at a time."""
    for inputs, following in zip(tokens.split(2), labels.split(2), strict=True):
        model.zero_grad()
        functional.cross_entropy(model(inputs).flatten(0, 1), following.flatten()).backward()


def record(folder: Path, rows: int) -> None:
    """Trains for a few steps of two rows, and records a checkpoint."""
    model, tokens, labels = made(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recorder = TrajectoryRecorder(
        model, optimizer, folder, steps=4, train_rows=rows, batch_size=2, checkpoints=1
    )
    for step in range(4):
        some = slice(2 * step % rows, 2 * step % rows + 2)
        plain_pass(model, tokens[some], labels[some])
        optimizer.step()
        recorder.step()


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def attributed(folder: Path, rows: int) -> dict[str, float]:
    """What a refined attribution of all rows takes, in this process."""
    torch.set_num_threads(1)
    imports = peak_bytes()
    model, tokens, labels = made(rows)
    settings = RefinedSettings(rows=rows, iterations=ITERATIONS, scale_rows=rows)
    query = [(tokens[:QUERIES], labels[:QUERIES])]
    cpu, _, scores = timed(
        lambda: attribute(
            model,
            Trajectory.load(folder),
            [(tokens, labels)],
            query,
            loss=cross_entropy(reduction="mean"),
            method="source_refined",
            refined=settings,
        )
    )
    assert torch.isfinite(scores.harm).all()
    return {"imports_bytes": imports, "peak_bytes": peak_bytes(), "cpu_seconds": cpu}


def memory_rows(rows: int) -> list[Row]:
    """Peak memory of a process of its own, and its CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("record", "attribute"):
            command = [sys.executable, "-m", "benchmarks.sequences", "--child", part, "--rows", str(rows)]
            done = subprocess.run([*command, "--folder", folder], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    common = {"task": TASK, "method": "source_refined", "rows": rows}
    own = found["peak_bytes"] - found["imports_bytes"]
    return [
        common | {"metric": "peak less imports, GB", "value": own / 1e9, "target": MEMORY_TARGET},
        common | {"metric": "peak, GB", "value": found["peak_bytes"] / 1e9},
        common | {"metric": "after the imports, GB", "value": found["imports_bytes"] / 1e9},
        common | {"metric": "seconds with one step of the solve", "value": found["cpu_seconds"]},
    ]


def time_rows(rows: int, repeats: int) -> list[Row]:
    """A step of the solve beside a plain pass over the same rows."""
    model, tokens, labels = made(rows)
    torch.manual_seed(1)
    direction = {layer.name: torch.randn(1, *layer.shape).double() for layer in covered_layers(model)}
    batch = Batch(tokens, labels, torch.arange(rows))
    works = {
        "plain": lambda: plain_pass(model, tokens, labels),
        "step": lambda: gauss_newton_products(model, cross_entropy(), batch, direction),
    }
    found, _ = turns(works, repeats)
    ratio = summary(ratios(found["step"], found["plain"]))
    extra = {"rows": rows}
    return [
        *seconds_rows(TASK, found, extra),
        {"task": TASK, "method": "step", "metric": "ratio"} | ratio | extra | {"target": TIME_TARGET},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS, help="that are attributed")
    parser.add_argument("--turns", type=int, default=TURNS, help="of step and pass, after one not counted")
    parser.add_argument("--quick", action="store_true", help="2 rows, 1 turn and few retrainings")
    parser.add_argument("--child", choices=("record", "attribute"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "record":
        record(options.folder, options.rows)
        return
    if options.child == "attribute":
        print(json.dumps(attributed(options.folder, options.rows)))
        return
    torch.set_num_threads(1)
    rows, repeats = (2, 1) if options.quick else (options.rows, options.turns)
    for said in coverage(LanguageModel()).approximated:
        print(said)
    parts: dict[str, Callable[[], list[Row]]] = {
        "time": lambda: time_rows(min(rows, PART), repeats),
        "memory": lambda: memory_rows(rows),
        "lds": lambda: lds_rows(small_model, quick=options.quick),
    }
    found = []
    for name, measure in parts.items():
        path = CACHE / "sequences" / f"{name}-{rows}-{repeats}.json"
        if not path.exists():
            write_json(path, {"rows": measure()})
        for row in read_json(path)["rows"]:
            print(row, flush=True)
            found.append(row)
    write_results("sequences", found)


if __name__ == "__main__":
    main()
