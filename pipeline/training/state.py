"""One safetensors file with everything that a training needs to resume after an interruption."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.runs.tensors import save_tensors
from pipeline.training.observer import Observer
from pipeline.training.optimizer import optimizer_tensors, restore_optimizer


def save_state(
    path: Path, step: int, model: nn.Module, optimizer: Optimizer, observers: dict[str, Observer]
) -> None:
    """Write weights, buffers, optimizer state, observers, the number of done steps and the random state to a file."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optimizer/{name}": t for name, t in optimizer_tensors(model, optimizer).items()}
    for key, observer in observers.items():
        tensors |= {f"observer/{key}/{name}": tensor for name, tensor in observer.state_tensors().items()}
    tensors |= {"step": torch.tensor(step), "random": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    save_tensors(path, tensors)


def load_state(path: Path, model: nn.Module, optimizer: Optimizer, observers: dict[str, Observer]) -> int:
    """Restore the state that `save_state` wrote; returns the number of done steps."""
    tensors = load_file(path)

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    model.load_state_dict(under("model/"))
    restore_optimizer(model, optimizer, under("optimizer/"))
    device = next(model.parameters()).device
    for key, observer in observers.items():
        observer.restore({name: tensor.to(device) for name, tensor in under(f"observer/{key}/").items()})
    torch.set_rng_state(tensors["random"])
    if "random_cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random_cuda"])
    return int(tensors["step"])
