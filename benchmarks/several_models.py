"""Several models trained at once against one after the other: CPU time per step and model, and whether bits agree.

    python -m benchmarks.several_models [--quick]

The MLP recipe on the Fashion-MNIST and digits samples, 8 seeds, on one thread: the plain loop; one step of all
models under `torch.func.vmap`; and weights in a batch, `baddbmm` with gradients written by autograd. The three take
turns, and times are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from benchmarks.results import write_results

SAMPLES = Path(__file__).parents[1] / "data_samples"
MODELS = 8
TASKS = {"fashion_mnist": ((784, 256, 128, 10), 64), "digits": ((64, 128, 64, 10), 30)}
RATE, MOMENTUM, DECAY = 0.03, 0.9, 1e-3
Batch = tuple[Tensor, Tensor]


def read(task: str) -> Batch:
    table = pq.read_table(SAMPLES / task / "train", columns=["image", "label"])
    pixels = table["image"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    return torch.from_numpy(pixels.astype(np.float32) / 255), torch.from_numpy(table["label"].to_numpy())


def network(widths: tuple[int, ...], seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for one, two in pairwise(widths):
        layers += [nn.Linear(one, two), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def plain(widths: tuple[int, ...], batches: list[list[Batch]]) -> list[Tensor]:
    """One model after the other, as `pipeline.training.loop` does it."""
    ended = []
    for seed in range(MODELS):
        model = network(widths, seed)
        optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)
        for batch in batches:
            inputs, labels = batch[seed]
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        ended.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    return ended


def stacked(widths: tuple[int, ...], batches: list[list[Batch]], by_vmap: bool) -> list[Tensor]:
    """All models in one step."""
    models = [network(widths, seed) for seed in range(MODELS)]
    weights, _ = stack_module_state(models)  # type: ignore[arg-type]
    weights = {name: tensor.detach() for name, tensor in weights.items()}
    momentum = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}

    def loss(one: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(models[0], one, (inputs,)), labels)

    def batched(all_of: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        free = {name: tensor.requires_grad_() for name, tensor in all_of.items()}
        values = inputs
        for layer in range(0, len(models[0]), 2):
            bias, weight = free[f"{layer}.bias"], free[f"{layer}.weight"]
            values = torch.baddbmm(bias[:, None], values, weight.transpose(1, 2))
            values = values.relu() if layer + 1 < len(models[0]) else values
        total = functional.cross_entropy(values.flatten(0, 1), labels.flatten(), reduction="sum")
        return dict(zip(free, torch.autograd.grad(total / labels.shape[1], list(free.values()))))

    gradients: Callable[..., dict[str, Tensor]] = vmap(grad(loss)) if by_vmap else batched
    for batch in batches:
        inputs, labels = (torch.stack(each) for each in zip(*batch))
        found = gradients(weights, inputs, labels)
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.requires_grad_(False)
                momentum[name].mul_(MOMENTUM).add_(found[name]).add_(tensor, alpha=DECAY)
                tensor.sub_(momentum[name], alpha=RATE)
    return [torch.cat([weights[name][seed].flatten() for name in weights]) for seed in range(MODELS)]


def measure(task: str, steps: int, repeats: int) -> list[dict[str, Any]]:
    (widths, size), (inputs, labels) = TASKS[task], read(task)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(steps):
        chosen = torch.randint(len(labels), (MODELS, size), generator=generator)
        batches.append([(inputs[each], labels[each]) for each in chosen])
    methods: dict[str, Callable[[], list[Tensor]]] = {
        "plain": lambda: plain(widths, batches),
        "vmap": lambda: stacked(widths, batches, True),
        "batched": lambda: stacked(widths, batches, False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    weights = {name: method() for name, method in methods.items()}
    for _ in range(repeats):
        for name, method in methods.items():
            begin = time.process_time()
            method()
            seconds[name].append((time.process_time() - begin) / steps / MODELS)
    rows: list[dict[str, Any]] = []
    for name, times in seconds.items():
        spread = {"low": min(times), "high": max(times), "n": repeats}
        row = {"task": task, "method": name, "models": MODELS}
        rows.append(row | {"metric": "seconds", "value": statistics.median(times)} | spread)
        ratios = [one / two for one, two in zip(seconds["plain"], times)]
        spread = {"low": min(ratios), "high": max(ratios), "n": repeats}
        rows.append(row | {"metric": "ratio", "value": statistics.median(ratios)} | spread)
        same = all(torch.equal(one, two) for one, two in zip(weights["plain"], weights[name]))
        rows.append(row | {"metric": "identical", "value": float(same), "n": MODELS})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.several_models")
    parser.add_argument("--quick", action="store_true", help="few steps")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rows = [row for task in TASKS for row in measure(task, 10 if quick else 30, 2 if quick else 5)]
    for row in rows:
        print(f"{row['task']:14s} {row['method']:8s} {row['metric']:10s} {row['value']:.6f}")
    print(write_results("several_models", rows))


if __name__ == "__main__":
    main()
