"""What embeddings and class probabilities of a user's own model add to the ranking of the judges, beside cleanlab.

    python -m benchmarks.own_evidence [--data DIR] [--only SET ...] [--seeds N]

Each draw takes ROWS rows with wrong labels for the audit, and OTHERS rows with labels that are wrong in the same way.
The user's model is trained on the others: TF-IDF, a truncated SVD and logistic regression for texts, a small convnet
for pictures. It gives embeddings and probabilities of the audited rows, which it has not seen. `prepare` and `panel` of
an audit then judge the rows; the ranking is that of the judges alone, without the audited model's training. cleanlab
gets the same probabilities, and those of a logistic regression on the same embeddings out of fold.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from cleanlab.rank import get_label_quality_scores
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from benchmarks.detection_tasks import GIVEN
from benchmarks.one_file.noise import make_noise
from benchmarks.one_file.sets import SETS, available, class_codes
from benchmarks.results import CACHE, HOME, write_lines
from pipeline.config import AuditConfig
from pipeline.detection.judges.class_judges import PANEL_FULL_VOTE, PANEL_NO_VOTE, pooled, vote
from pipeline.detection.noise.label_flips import estimate_flips, right_label, wrong_label
from pipeline.detection.signals.panel_confidence import PANEL_CONFIDENCE
from pipeline.detection.signals.panel_wrong import PANEL_WRONG
from pipeline.detection.signals.weights import weighted_by_own
from pipeline.detection.suspicion import suspicion
from pipeline.panel.judges import OWN, OWN_LINEAR, OWN_NEIGHBOURS, OWN_PROBABILITIES
from pipeline.panel.opinions import Panel
from pipeline.panel.weights import Measured, weigh
from pipeline.runs.directory import read_json, write_json
from pipeline.seeds import random_state
from pipeline.stages.opening import open_run
from pipeline.stages.stages import STAGES, fingerprints, run_stage
from pipeline.tasks.classification import CLASSIFICATION

DRAWS = {
    "trec": ("uniform", 0.15),
    "sst2": ("uniform", 0.15),
    "fashion_mnist": ("uniform", 0.15),
    "cifar10": ("human_worse", 0.0),
    "cifar10 random1": ("human_random1", 0.0),
}
"""Set → noise and its rate."""
ROWS, OTHERS, WIDTH, EPOCHS = 800, 2000, 128, 8
EMBEDDINGS, PROBABILITIES = (OWN_LINEAR.name, OWN_NEIGHBOURS.name), (OWN_PROBABILITIES.name,)
ARMS = {
    "winnow": (),
    "winnow, embeddings": EMBEDDINGS,
    "winnow, pred_probs": PROBABILITIES,
    "winnow, both": EMBEDDINGS + PROBABILITIES,
}
PEERS = {"cleanlab, embeddings": EMBEDDINGS, "cleanlab, pred_probs": PROBABILITIES}
"""Method → the evidence that it has."""


def draw(name: str, data: Path, seed: int) -> tuple[pa.Table, np.ndarray, pa.Table]:
    """The rows of an audit with given labels, which of them are wrong, and the other rows."""
    known = SETS[name.split()[0]]
    rows, _ = known.read(data / (known.folder or ""))
    order = random_state(f"own evidence {name}", seed).permutation(rows.num_rows)[: ROWS + OTHERS]
    rows = rows.take(pa.array(order))
    noisy = make_noise(name.split()[0], known, rows, *DRAWS[name], seed)
    place = rows.column_names.index(GIVEN)
    given = rows.set_column(place, GIVEN, noisy.given).select([*known.features, GIVEN])
    return given.slice(0, ROWS), noisy.wrong[:ROWS], given.slice(ROWS)


def of_texts(rows: pa.Table, others: pa.Table, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and probabilities of the rows, by a model of the others."""
    words = TfidfVectorizer(sublinear_tf=True)
    seen = words.fit_transform(others["text"].to_pylist())
    unseen = words.transform(rows["text"].to_pylist())
    labels = class_codes(others[GIVEN])[1]
    model = LogisticRegression(C=3, max_iter=500).fit(seen, labels)
    return TruncatedSVD(WIDTH, random_state=seed).fit(seen).transform(unseen), model.predict_proba(unseen)


def of_pictures(rows: pa.Table, others: pa.Table, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same by a convnet with three layers; the embeddings are what its last layer sees."""
    torch.manual_seed(seed)
    seen, unseen = (as_pixels(table) for table in (others, rows))
    names, codes = class_codes(others[GIVEN])
    labels = torch.from_numpy(codes)
    widths = [seen.shape[1], 24, 48, 64]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers.append(nn.MaxPool2d(2) if after < widths[-1] else nn.AdaptiveAvgPool2d(2))
    body, head = nn.Sequential(*layers, nn.Flatten()), nn.Linear(4 * widths[-1], len(names))
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], weight_decay=1e-2)
    steps = EPOCHS * (len(seen) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(seen))[: len(seen) // 64 * 64].split(64):
            loss = nn.functional.cross_entropy(head(body(seen[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    body.eval()
    with torch.no_grad():
        vectors = torch.cat([body(part) for part in unseen.split(256)])
        return vectors.numpy(), head(vectors).softmax(1).double().numpy()


def as_pixels(table: pa.Table) -> torch.Tensor:
    """float32 `[rows, channels, height, width]`, about −2 … 2."""
    flat = table["image"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    shape = (-1, 1, 28, 28) if flat.shape[1] == 28 * 28 else (-1, 32, 32, 3)
    pixels = torch.from_numpy(flat.reshape(shape).astype(np.float32) / 64 - 2)
    return pixels if shape[1] == 1 else pixels.permute(0, 3, 1, 2).contiguous()


def judged(rows: pa.Table, features: dict[str, str], folder: Path) -> Panel:
    """What the panel of an audit says, all rows being train rows."""
    pq.write_table(rows, folder / "rows.parquet")
    data = {"train": str(folder / "rows.parquet"), "features": features, "label": GIVEN}
    data |= {"embeddings": "vector", "pred_probs": "chances"}
    config = AuditConfig.model_validate({"name": "own", "data": data, "compute": {"workers": 1}})
    with open_run(config, folder / "run") as context:
        expected = fingerprints(config)
        for stage in STAGES:
            if stage.name in ("prepare", "panel"):
                run_stage(stage, context, expected[stage.name])
    return Panel(folder / "run")


def ranking(panel: Panel, evidence: tuple[str, ...], given: np.ndarray) -> np.ndarray:
    """The suspicion by the judges that see features and by some of those that see the user's evidence."""
    names = [judge.name for judge in panel.judges if judge.name not in OWN or judge.name in evidence]
    said = {name: np.asarray(panel.of(name, "train"), dtype=np.float64) for name in names}
    shares = CLASSIFICATION.shares(given, said[names[0]].shape[1])
    constant = np.broadcast_to(shares, said[names[0]].shape)
    losses = {name: CLASSIFICATION.row_losses(each, given).mean() for name, each in said.items()}
    measured = [Measured(name, 1.0, CLASSIFICATION.errors(said[name], given).mean()) for name in names]
    weights = weigh(measured, CLASSIFICATION.errors(constant, given).mean())
    explains = {name: 1 - loss / CLASSIFICATION.constant_loss(given) for name, loss in losses.items()}
    best = max(explains.values())
    votes = {
        each.measured.judge: each.weight
        * vote(explains[each.measured.judge], best, PANEL_NO_VOTE, PANEL_FULL_VOTE)
        for each in weights
    }
    counting = [name for name in names if votes[name] > 0]
    together = pooled([said[name] for name in counting], np.array([votes[name] for name in counting]))
    wrong = wrong_label(right_label(together, given, estimate_flips(together, given)), given)
    confidence = together[np.arange(len(given)), given].astype(np.float64)
    share = sum(votes[name] for name in evidence) / sum(votes.values())
    signals = [PANEL_WRONG.of(wrong)] + ([PANEL_CONFIDENCE.of(confidence)] if share > 0 else [])
    return suspicion(weighted_by_own(signals, share))


def measure(name: str, data: Path, seed: int) -> dict[str, float]:
    """Method → average precision of its ranking of the rows of a draw."""
    rows, wrong, others = draw(name, data, seed)
    known = SETS[name.split()[0]]
    vectors, chances = (of_texts if known.kind == "text" else of_pictures)(rows, others, seed)
    rows = rows.append_column("vector", pa.array(list(vectors.astype(np.float32))))
    rows = rows.append_column("chances", pa.array(list(chances)))
    given = class_codes(rows[GIVEN])[1]
    with tempfile.TemporaryDirectory(prefix="own-evidence-") as folder:
        panel = judged(rows, known.features, Path(folder))
        found = {
            arm: average_precision_score(wrong, ranking(panel, evidence, given))
            for arm, evidence in ARMS.items()
        }
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    of_embeddings = cross_val_predict(linear, vectors, given, cv=folds, method="predict_proba")
    for method, said in zip(PEERS, (of_embeddings, chances)):
        found[method] = average_precision_score(wrong, -get_label_quality_scores(given, said))
    return {method: float(value) for method, value in found.items()}


def rows_of(found: dict[str, list[dict[str, float]]]) -> list[dict[str, object]]:
    """Means over the draws of each set, and how far each arm with evidence is ahead of the better usual ranking."""
    rows: list[dict[str, object]] = []
    leads: dict[str, list[float]] = {arm: [] for arm, evidence in ARMS.items() if evidence}
    for name, draws in found.items():
        means = {method: float(np.mean([each[method] for each in draws])) for method in draws[0]}
        rows += [
            {"task": name, "method": method, "metric": "average_precision", "value": value, "n": len(draws)}
            for method, value in means.items()
        ]
        for arm, of_arm in leads.items():
            usual = [means[peer] for peer, evidence in PEERS.items() if set(evidence) <= set(ARMS[arm])]
            of_arm.append(means[arm] - max(usual + [means["winnow"]]))
    for arm, of_arm in leads.items():
        for metric, value in (("ahead, mean over sets", np.mean(of_arm)), ("ahead, least set", min(of_arm))):
            rows.append(
                {"task": "all", "method": arm, "metric": metric, "value": float(value), "n": len(of_arm)}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_evidence")
    parser.add_argument("--data", type=Path, default=HOME / "data", help="folder of the original sets")
    parser.add_argument("--only", nargs="+", default=list(DRAWS), metavar="SET", choices=list(DRAWS))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    there = available(list(dict.fromkeys(name.split()[0] for name in arguments.only)), arguments.data)
    found: dict[str, list[dict[str, float]]] = {}
    for name in arguments.only:
        for seed in range(arguments.seeds) if name.split()[0] in there else ():
            path = CACHE / "own_evidence" / f"{name.replace(' ', '-')}-{seed}.json"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, measure(name, arguments.data, seed))
            found.setdefault(name, []).append(read_json(path))
            print(
                name, seed, {method: round(value, 3) for method, value in found[name][-1].items()}, flush=True
            )
    print(write_lines("own_evidence", rows_of(found)))


if __name__ == "__main__":
    main()
