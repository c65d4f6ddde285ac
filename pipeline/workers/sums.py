"""Sums over many chunks: partial sums lie on disk and are added in a tree of fixed shape.

The shape of the tree depends on the number of chunks alone, so that the bits of the result depend neither on the number
of workers nor on the order in which they finish. After an interruption, partial sums on disk are not computed again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from pipeline.attribution.curvature.factor_sums import add_tensors
from pipeline.runs.context import Workers
from pipeline.runs.tensors import save_tensors

FAN_IN = 8

Tensors = dict[str, Tensor]


def summed(
    workers: Workers,
    leaf: Callable[..., Tensors],
    tasks: list[tuple[Any, ...]],
    directory: Path,
    name: str,
    on_leaf: Callable[[int], None] = lambda place: None,
) -> Path:
    """Compute Σ leaf(*task) over the tasks on the workers.

    Args:
        workers: run the tasks.
        leaf: computes the tensors of one task.
        tasks: the arguments of each call.
        directory: for partial sums; remove it with `forget` when the result has been used.
        name: of the sum, for errors.
        on_leaf: called with the place of each task that is done.

    Returns:
        The file with the sum, in `directory`.
    """
    paths = [directory / f"leaf-{place:04d}.safetensors" for place in range(len(tasks))]
    missing = [place for place, path in enumerate(paths) if not path.exists()]
    for place in set(range(len(tasks))) - set(missing):
        on_leaf(place)
    workers.run(
        _compute_leaf,
        [(leaf, tasks[place], paths[place]) for place in missing],
        [f"{name}, part {place + 1} of {len(tasks)}" for place in missing],
        lambda index, _: on_leaf(missing[index]),
    )
    level = 0
    while len(paths) > 1:
        level += 1
        groups = [paths[start : start + FAN_IN] for start in range(0, len(paths), FAN_IN)]
        paths = [directory / f"sum-{level}-{place:04d}.safetensors" for place in range(len(groups))]
        waiting = [place for place, path in enumerate(paths) if not path.exists()]
        workers.run(
            _add_files,
            [(groups[place], paths[place]) for place in waiting],
            [f"{name}, sum {paths[place].stem}" for place in waiting],
        )
    return paths[0]


def _compute_leaf(leaf: Callable[..., Tensors], task: tuple[Any, ...], path: Path) -> None:
    save_tensors(path, leaf(*task))


def _add_files(parts: list[Path], path: Path) -> None:
    total: Tensors = {}
    for part in parts:
        total = add_tensors(total, load_file(part))
    save_tensors(path, total)


def forget(directory: Path) -> None:
    """Remove the partial sums, once what was made from them is on disk."""
    shutil.rmtree(directory, ignore_errors=True)
