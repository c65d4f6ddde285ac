from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.config import Model
from pipeline.errors import InputError
from pipeline.features.kinds.text import TextFacts
from pipeline.models import build_model, initialise
from pipeline.models.bag_of_embeddings import BagOfEmbeddings
from pipeline.models.features import penultimate_features
from pipeline.models.tfidf import TfIdf
from pipeline.models.validate import check_model

WORDS = tuple(f"w{number}" for number in range(48))
IMAGE = {
    "image_mean": [0.5],
    "image_std": [0.25],
    "vocabulary_size": 50,
    "text": TextFacts(WORDS, 9, (2,) * 48, ((3, 4, 2),)),
}


def encoding(outputs: int = 3, **shapes: tuple[int, ...]) -> Any:
    return SimpleNamespace(input_shapes=shapes, outputs=outputs, statistics=IMAGE, task="classification")


def rows(inputs: Any, count: int = 4) -> Any:
    class Rows(SimpleNamespace):
        def __len__(self) -> int:
            return count

    return Rows(inputs=inputs)


INPUTS: dict[str, tuple[dict[str, tuple[int, ...]], Any]] = {
    "table": ({"dense": (7,)}, torch.randn(4, 7)),
    "image": ({"image": (1, 8, 8)}, torch.randint(255, (4, 1, 8, 8), dtype=torch.uint8)),
    "text": ({"tokens": (6,)}, torch.randint(50, (4, 6), dtype=torch.int32)),
    "text and table": (
        {"tokens": (6,), "dense": (7,)},
        {"tokens": torch.randint(50, (4, 6), dtype=torch.int32), "dense": torch.randn(4, 7)},
    ),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_auto_builds_a_model_that_fits_the_inputs(kind: str) -> None:
    shapes, inputs = INPUTS[kind]
    model = build_model(Model(hidden=[5], dropout=0.1), encoding(**shapes))
    check_model(model, encoding(**shapes), rows(inputs))
    assert isinstance(model, TfIdf) == ("text" in kind)
    width = 3 if kind == "text" else 5  # TF-IDF alone has no hidden layer: the outputs stand for the features
    assert penultimate_features(model, inputs).shape == (4, width)


@pytest.mark.parametrize("kind", ["text", "text and table"])
def test_a_bag_of_embeddings_takes_texts(kind: str) -> None:
    shapes, inputs = INPUTS[kind]
    model = build_model(Model(name="bag_of_embeddings", hidden=[5]), encoding(**shapes))
    check_model(model, encoding(**shapes), rows(inputs))
    assert isinstance(model, BagOfEmbeddings)


def test_a_convnet_takes_images_of_any_size() -> None:
    for size in (8, 28, 33):
        shapes = {"image": (1, size, size)}
        model = build_model(Model(name="convnet", channels=[4, 8], hidden=[5]), encoding(**shapes))
        check_model(model, encoding(**shapes), rows(torch.zeros(4, 1, size, size, dtype=torch.uint8)))


@pytest.mark.parametrize("name", ["tfidf", "bag_of_embeddings"])
def test_padding_does_not_change_what_a_text_gives(name: Any) -> None:
    model = build_model(Model(name=name, hidden=[5]), encoding(tokens=(6,)))
    nn.init.normal_(model.get_parameter("embedding.weight"))
    short = torch.tensor([[3, 4, 0, 0, 0, 0]])
    assert torch.allclose(model(short), model(short[:, :2]))
    assert torch.isfinite(model(torch.zeros(1, 6, dtype=torch.int64))).all()


def test_images_are_standardised_by_the_train_statistics() -> None:
    model = build_model(Model(), encoding(image=(1, 2, 2)))
    front = model[0]  # type: ignore[index]
    assert front(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).flatten().tolist() == [2.0] * 4


def test_initialisation_depends_on_the_seed_alone() -> None:
    def build() -> nn.Module:
        return build_model(Model(), encoding(dense=(3,)))

    one, _, two = initialise(build, 1), torch.rand(5), initialise(build, 1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    other = initialise(build, 2)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


def test_a_model_of_the_wrong_width_is_named_with_the_number_of_classes() -> None:
    with pytest.raises(InputError, match=r"output is \(4, 2\) for 4 rows, but the labels have 3 classes"):
        check_model(nn.Linear(7, 2), encoding(dense=(7,)), rows(torch.randn(4, 7)))


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_a_model_that_cannot_take_the_features_is_refused(name: Any) -> None:
    with pytest.raises(InputError, match=f"model.name is {name}"):
        build_model(Model(name=name), encoding(tokens=(6,)))


def test_ones_own_model_gets_the_encoding_if_it_asks_for_it() -> None:
    model = build_model(Model(target="own_model:build", kwargs={"width": 9}), encoding(dense=(7,)))
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [9, 3]


@pytest.mark.parametrize(
    ("function", "kwargs", "said"),
    [
        ("not_a_module", {}, "returned a str"),
        ("build", {"width": -1}, r"can't be called with \['encoding', 'width'\] \(RuntimeError"),
        ("nothing_trained", {}, "has no trained layer that attribution covers"),
        ("NUMBER", {}, "can't be called"),
        ("missing", {}, "can't be imported"),
    ],
)
def test_ones_own_model_that_cannot_be_used_is_named(
    function: str, kwargs: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=f"model.target: own_model:{function} {said}"):
        build_model(Model(target=f"own_model:{function}", kwargs=kwargs), encoding(dense=(7,)))


def test_a_module_that_fails_while_it_is_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_model.py").write_text("def build(:")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"broken_model:build can't be imported \(SyntaxError"):
        build_model(Model(target="broken_model:build"), encoding(dense=(7,)))


def test_whatever_a_forward_raises_is_said_in_words() -> None:
    class Picky(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise AssertionError(f"{inputs.shape[1]} columns are too few")

    with pytest.raises(InputError, match=r"can't take .* AssertionError: 3 columns are too few"):
        check_model(Picky(), encoding(dense=(3,)), rows(torch.randn(4, 3)))
