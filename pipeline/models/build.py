"""Builds the model from the config's `model` section and the shapes of the data, and initialises it reproducibly."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.attribution.model.capture import covered_layers
from pipeline.errors import InputError
from pipeline.features.registry import find_input, inputs
from pipeline.models.bag_of_embeddings import BagOfEmbeddings
from pipeline.models.convnet import convnet
from pipeline.models.finetuned import finetuned
from pipeline.models.mlp import mlp
from pipeline.models.normalise import NormaliseImage
from pipeline.models.table_bins import TableBins
from pipeline.models.tfidf import TfIdf, term_tables

if TYPE_CHECKING:
    from pipeline.config import Model
    from pipeline.data.encode import Encoding
    from pipeline.features.input import Input


def model_name(config: Model, encoding: Encoding) -> str:
    """The name of the model: `custom` for a model of the user, else a built-in one; `usual` depends on the inputs."""
    return candidates(config, encoding)[0]


def candidates(config: Model, encoding: Encoding) -> tuple[str, ...]:
    """The names of the models that `auto` tries, the usual one first; one name where there is nothing to choose."""
    if config.target is not None:
        return ("custom",)
    if config.name not in ("auto", "usual"):
        return (config.name,)
    main = _main_input(encoding)
    return main.models if main is not None and main.models else ("mlp",)


def _main_input(encoding: Encoding) -> Input | None:
    """The input that decides the built-in model; other inputs are joined to it. None if no model takes them all."""
    found = [find_input(name) for name in encoding.input_shapes]
    return next(
        (each for each in found if {other.name for other in found} - {each.name} <= each.beside), None
    )


def build_model(config: Model, encoding: Encoding) -> nn.Module:
    """Build the model for the encoded inputs; torch's global generator draws the weights.

    Raises:
        InputError: the model does not take these inputs, or `model.target` can't be built.
    """
    name, shapes = model_name(config, encoding), encoding.input_shapes
    if name == "custom":
        return _own_model(config, encoding)
    main = _main_input(encoding)
    if main is None or name not in main.models:
        takes = " or ".join(sorted(found for found, each in inputs().items() if name in each.models))
        raise InputError(
            f"model.name is {name}, which takes {takes}, and the features give {' with '.join(sorted(shapes))}",
            "Choose other features or another model, or give your own by model.target; it gets a dict of tensors.",
        )
    dense = shapes["dense"][0] if "dense" in shapes else 0
    if name == "tfidf":
        tables = term_tables(encoding.statistics["text"])
        return TfIdf(tables, encoding.outputs, dense, config.hidden, config.dropout)
    if name == "finetuned":
        asked = encoding.statistics["finetuned"]
        return finetuned(asked.asked, asked.layers, encoding.outputs, dense, config.hidden, config.dropout)
    if name == "bag_of_embeddings":
        vocabulary = encoding.statistics["vocabulary_size"]
        return BagOfEmbeddings(
            vocabulary, config.embedding, config.hidden, encoding.outputs, dense, config.dropout
        )
    if name == "table":
        bins = TableBins(column_edges(encoding), shapes["dense"][0])
        return mlp(bins.width, config.hidden, encoding.outputs, config.dropout, bins)
    front = None
    if "image" in shapes:
        front = NormaliseImage(encoding.statistics["image_mean"], encoding.statistics["image_std"])
    if name == "convnet":
        assert front is not None
        channels = shapes["image"][0]
        return convnet(channels, config.channels, config.hidden, encoding.outputs, front, config.dropout)
    return mlp(math.prod(next(iter(shapes.values()))), config.hidden, encoding.outputs, config.dropout, front)


def column_edges(encoding: Encoding) -> dict[int, list[float]]:
    """The edges of the bins of dense columns that have some, standardised as the columns are, by column."""
    found, column = {}, 0
    for encoder in encoding.filled_by("dense"):
        for place in encoder.places:  # type: ignore[attr-defined]
            if len(place.edges) > 1 and place.std > 0:
                found[column] = [(edge - place.mean) / place.std for edge in place.edges]
            column += place.width
    return found


def initialise(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Call `build()` with torch's global generator seeded; the generator is restored afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def _own_model(config: Model, encoding: Encoding) -> nn.Module:
    """Build a model of the user by calling `model.target`, `package.module:function`, with `model.kwargs`.

    The module may lie in the working directory. A function with a parameter `encoding` gets the encoding.

    Raises:
        InputError: the function can't be imported or called, or returns no module that attribution covers.
    """
    assert config.target is not None
    module_name, _, function_name = config.target.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # whatever the user's module raises
        raise InputError(
            f"model.target: {config.target} can't be imported ({type(error).__name__}: {error})",
            "Check the path; modules are looked for in the working directory and in the environment.",
        ) from error
    arguments: dict[str, Any] = dict(config.kwargs)
    try:
        if "encoding" in inspect.signature(function).parameters:
            arguments["encoding"] = encoding
        model = function(**arguments)
    except Exception as error:
        raise InputError(
            f"model.target: {config.target} can't be called with {sorted(arguments)} "
            f"({type(error).__name__}: {error})",
            "Set model.kwargs to the function's arguments.",
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model.target: {config.target} returned a {type(model).__name__}, not a torch.nn.Module",
            "Return the module itself.",
        )
    if not covered_layers(model):
        raise InputError(
            f"model.target: {config.target} has no trained layer that attribution covers",
            "Build it from Linear, convolution, Embedding or attention layers.",
        )
    return model
