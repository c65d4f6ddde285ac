"""State dicts on disk, as safetensors that are written atomically, and the running mean of state dicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, TensorSpec, serialize_file
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.attribution.atomic import write_atomically
from pipeline.attribution.errors import CheckpointError


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors into a safetensors file. safetensors' own function for this needs NumPy."""
    # Contiguous copies: a tensor may be a view, and tensors may share memory.
    held = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    specs = {
        name: TensorSpec(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tensor.shape,
            data_ptr=tensor.data_ptr(),
            data_len=tensor.nbytes,
        )
        for name, tensor in held.items()
    }
    serialize_file(specs, path)


def save_weights(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Saves a state dict atomically. Tied tensors (the same memory) are saved once, under their first name."""
    kept = {}
    seen = set()
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if key in seen and tensor.numel():
            continue
        seen.add(key)
        kept[name] = tensor
    with write_atomically(path) as temporary:
        write_tensors(kept, temporary)


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Returns the state dict that ``save_weights`` wrote.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"The weights {path} are missing.", "Restore the file or train again."
        ) from error
    except SafetensorError as error:
        raise CheckpointError(
            f"The weights {path} are damaged ({error}).", "Restore the file or train again."
        ) from error


def restore_weights(model: nn.Module, state: Mapping[str, Tensor], source: str | Path = "") -> None:
    """Loads a state dict of ``save_weights`` into a model, in place.

    Args:
        model: the model.
        state: the state dict.
        source: the file that the state dict comes from, for messages.

    Raises:
        CheckpointError: a name or shape doesn't fit. The message names the first such tensor and ``source``.
    """
    own = model.state_dict()
    aliases = {tensor.data_ptr() for name, tensor in own.items() if name in state}
    hint = "Build the model as it was built for training."
    for name, tensor in own.items():
        if name not in state:
            if tensor.data_ptr() not in aliases:
                raise CheckpointError(f"The checkpoint {source} has no {name!r}.", hint)
        elif state[name].shape != tensor.shape:
            raise CheckpointError(
                f"In the checkpoint {source}, {name!r} has shape {tuple(state[name].shape)} "
                f"and not the model's {tuple(tensor.shape)}.",
                hint,
            )
    for name in state:
        if name not in own:
            raise CheckpointError(f"The checkpoint {source} has {name!r}, which the model hasn't.", hint)
    model.load_state_dict(dict(state), strict=False)


class RunningMean:
    """The mean of state dicts, summed in float64. Tensors that aren't floating point keep their last value."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}

    def add(self, state: Mapping[str, Tensor]) -> None:
        """Adds one state dict. All must have the same names and shapes."""
        for name, tensor in state.items():
            tensor = tensor.detach()
            if not tensor.is_floating_point():
                self._sums[name] = tensor.clone()
            elif name in self._sums:
                self._sums[name] += tensor
            else:
                self._sums[name] = tensor.double() if tensor.dtype != torch.float64 else tensor.clone()
            self._dtypes[name] = tensor.dtype
        self.count += 1

    def mean(self) -> dict[str, Tensor]:
        """Returns the mean, in the dtypes of the state dicts that were added.

        Raises:
            CheckpointError: nothing was added.
        """
        if self.count == 0:
            raise CheckpointError("The running mean is of nothing.", "Add at least one state dict.")
        return {
            name: (value / self.count).to(self._dtypes[name]) if value.is_floating_point() else value.clone()
            for name, value in self._sums.items()
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """Returns the sums as a flat dictionary for safetensors. ``from_tensors`` restores them without loss."""
        tensors = {f"sum/{name}": value for name, value in self._sums.items()}
        # Empty tensors stand for the dtypes.
        tensors |= {f"dtype/{name}": torch.empty(0, dtype=dtype) for name, dtype in self._dtypes.items()}
        return tensors | {"count": torch.tensor(self.count)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> RunningMean:
        """Returns the running mean: the inverse of ``to_tensors``."""
        running = cls()
        running.count = int(tensors["count"])
        for name, value in tensors.items():
            if name.startswith("sum/"):
                running._sums[name.removeprefix("sum/")] = value.clone()
            elif name.startswith("dtype/"):
                running._dtypes[name.removeprefix("dtype/")] = value.dtype
        return running


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the entries whose name begins with ``prefix``, with the prefix removed from their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
