"""Models inside torch's wrappers: the plain model, its names, and its whole tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, distributed, nn

# The attribute that holds the model in torch.compile, and a part of names where only a part of a model is compiled.
_COMPILED = "_orig_mod"


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the plain model inside DistributedDataParallel, DataParallel and torch.compile."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    inner = getattr(model, _COMPILED, None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def plain_name(name: str) -> str:
    """Returns the name of a parameter or buffer without the parts that torch.compile adds."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def whole(tensor: Tensor) -> Tensor:
    """Returns the whole of a tensor that FSDP2 spreads over processes; all processes must call this together."""
    full: Any = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict under plain names, with whole tensors."""
    return {plain_name(name): whole(tensor) for name, tensor in model.state_dict().items()}


def is_first_process() -> bool:
    """Returns whether this process writes files: the first one of those that train together."""
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
