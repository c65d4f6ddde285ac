"""Pretrained encoders: are wrong labels of texts found better through one, and better than cleanlab finds them?

    python -m benchmarks.encoders --data DIR --encoder FOLDER [--rows N] [--seeds N] [--only SET ...]

A file of texts gets wrong labels: in 10 % of its rows at random, in 20 % as the next class (of two classes, in one of
them), and in 20 % where a model that did not see the row takes it for another class. Winnow audits it by the config
that `winnow init` writes, and by the same one with the encoder in the place of the kind `text` and with the default
model and training. cleanlab gets a logistic regression on the same vectors. The environment needs the extras `dev`
and `encoders`. `--quick` takes few rows of one set with one noise.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

import pipeline
from benchmarks.detection_tasks import GIVEN
from benchmarks.one_file.audits import RANKING_ONLY, init
from benchmarks.one_file.configurations import KEY, with_key
from benchmarks.one_file.noise import make_noise
from benchmarks.one_file.peers import FOLDS
from benchmarks.one_file.sets import SETS, class_codes
from benchmarks.results import write_results
from pipeline.config import load_config
from pipeline.features.pretrained.embed import Embedder, Material
from pipeline.features.pretrained.models import Pretrained, identity
from pipeline.features.pretrained.vectors import keys_of
from pipeline.seeds import random_state

TEXTS = ("sst2", "trec", "sms_spam")
NOISES = (("uniform", 0.1), ("pairs", 0.2), ("features", 0.2))
"""Kinds of noise and their rates, as in benchmarks.one_file."""
ROWS, QUICK_ROWS = 2000, 300
WITH, WITHOUT, PEER = "winnow_encoder", "winnow", "cleanlab_encoder"


def noisy_rows(
    name: str, noise: tuple[str, float], data: Path, rows: int, seed: int
) -> tuple[pa.Table, np.ndarray]:
    """Rows of a set with labels as given, and which of these are wrong: bool `[rows]`."""
    known = SETS[name]
    table, _ = known.read(data / (known.folder or ""))
    places = random_state(f"encoders {name}", seed).permutation(table.num_rows)[:rows]
    table = table.take(pa.array(np.sort(places)))
    noisy = make_noise(name, known, table, *noise, seed)
    return with_key(table.select(["text"]).append_column(GIVEN, noisy.given), "r"), noisy.wrong


def precision(suspicion: np.ndarray, wrong: np.ndarray) -> float:
    """Average precision over the rows that were judged."""
    judged = np.isfinite(suspicion)
    return float(average_precision_score(wrong[judged], suspicion[judged]))


def cleanlab(rows: pa.Table, encoder: str, seed: int) -> np.ndarray:
    """Suspicion of the rows, float64, by a logistic regression on the vectors, out of fold."""
    asked = Pretrained("text", "text", encoder)
    texts = rows["text"].to_pylist()
    material = Material(
        keys_of([text.encode() for text in texts]), lambda places: [texts[place] for place in places]
    )
    vectors = Embedder(asked, identity(asked))(material)
    _, codes = class_codes(rows[GIVEN])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    model = LogisticRegression(max_iter=1000)
    opinions = cross_val_predict(model, vectors, codes, cv=folds, method="predict_proba")
    return -get_label_quality_scores(codes, opinions)


def winnow(rows: pa.Table, encoder: str | None, folder: Path) -> np.ndarray:
    """Suspicion of the rows, float64, in their order."""
    file, written = folder / "rows.parquet", folder / "config.yaml"
    pq.write_table(rows, file)
    if not written.exists():
        init(file, written)
    changes: dict[str, Any] = dict(each.split("=") for each in RANKING_ONLY)
    config = load_config(written, {key: int(value) for key, value in changes.items()})
    if encoder is not None:
        tree = config.as_dict()
        tree["data"]["features"] = {"text": {"kind": "text", "encoder": encoder}}
        del tree["model"], tree["training"]
        config = type(config).model_validate(tree)
    lines = pipeline.audit(config, folder / (WITH if encoder else WITHOUT)).rows
    order = {key: place for place, key in enumerate(lines["row_key"].to_pylist())}
    suspicion = lines["suspicion"].cast(pa.float64()).combine_chunks().fill_null(np.nan).to_numpy()
    found = np.array([order.get(key, -1) for key in rows[KEY].to_pylist()])
    return np.where(found >= 0, suspicion[found], np.nan)


def measure(
    name: str, noise: tuple[str, float], data: Path, encoder: str, rows: int, seed: int
) -> list[dict[str, Any]]:
    table, wrong = noisy_rows(name, noise, data, rows, seed)
    with TemporaryDirectory() as folder:
        found = {
            WITH: winnow(table, encoder, Path(folder)),
            PEER: cleanlab(table, encoder, seed),
            WITHOUT: winnow(table, None, Path(folder)),
        }
    task = f"{name}/{noise[0]}/{noise[1]:g}"
    return [
        {
            "task": task,
            "method": method,
            "metric": "average_precision",
            "value": precision(suspicion, wrong),
            "n": len(wrong),
            "seed": seed,
        }
        for method, suspicion in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", required=True, help="a folder or a name, as in data.features")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", choices=TEXTS, nargs="+")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    names = options.only or list(TEXTS[:1] if options.quick else TEXTS)
    rows = QUICK_ROWS if options.quick else options.rows
    found = []
    for seed in range(options.seeds):
        for name, noise in product(names, NOISES[:1] if options.quick else NOISES):
            measured = measure(name, noise, options.data, options.encoder, rows, seed)
            print(
                *(f"{each['task']} {each['method']} {each['value']:.3f}" for each in measured),
                sep="\n",
                flush=True,
            )
            found += measured
            write_results("encoders", found)


if __name__ == "__main__":
    main()
