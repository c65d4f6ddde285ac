"""Published detectors on the same trained model, as the Adversarial Robustness Toolbox has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import CACHE

PINNED = ("adversarial-robustness-toolbox==1.20.1", "six")


class TrainedModel:
    """What the toolbox asks of a classifier here: the activations of its last hidden layer."""

    layer_names = ("penultimate",)

    def __init__(self, features: np.ndarray, classes: int):
        self._features, self.nb_classes = features, classes

    def get_activations(
        self, x: np.ndarray, layer: int, batch_size: int, framework: bool = False
    ) -> np.ndarray:
        del layer, batch_size, framework
        return self._features[x[:, 0].astype(np.int64)]


def toolbox() -> Path:
    """The toolbox in a folder of its own: without its dependencies, which the project has already."""
    folder = CACHE / "art"
    if not (folder / "art").exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*install, *PINNED], check=True)
    return folder


def flags(
    features: np.ndarray, labels: np.ndarray, classes: int, poisoned_share: float
) -> dict[str, np.ndarray]:
    """bool `[rows]` by method; poisoned_share: true share of the target class, told to one of them."""
    sys.path.insert(0, str(toolbox()))
    try:
        from art.defences.detector.poison import ActivationDefence, SpectralSignatureDefense
    finally:
        sys.path.remove(str(CACHE / "art"))
    places = np.arange(len(labels), dtype=np.float64)[:, None]
    one_hot = np.eye(classes)[labels]
    model: Any = TrainedModel(features, classes)

    def suspected(defence: Any, **options: Any) -> np.ndarray:
        _, clean = defence.detect_poison(**options)
        return np.asarray(clean) == 0

    told = max(poisoned_share, 0.001)
    return {
        "art_spectral_signatures": suspected(SpectralSignatureDefense(model, places, one_hot)),
        "art_spectral_signatures_told_the_share": suspected(
            SpectralSignatureDefense(model, places, one_hot, expected_pp_poison=told)
        ),
        "art_activation_clustering": suspected(
            ActivationDefence(model, places, one_hot), nb_clusters=2, nb_dims=10, reduce="PCA"
        ),
    }
