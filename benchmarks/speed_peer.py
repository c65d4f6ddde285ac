"""kronfluence on the benchmark's models: the same drawn output gradients, damping and rows as Winnow."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path

import torch
from kronfluence import analyzer, arguments, task
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pipeline.attribution import cross_entropy
from pipeline.attribution.objectives.random_labels import row_uniforms

ENTROPY = cross_entropy()
BATCH = 64


class Classification(task.Task):
    """Takes the output gradients that Winnow draws for checkpoint 5 of a trajectory."""

    def compute_train_loss(self, batch: list[Tensor], model: nn.Module, sample: bool = False) -> Tensor:
        inputs, labels, row_ids = batch
        outputs = model(inputs)
        if sample:
            uniforms = row_uniforms(row_ids, seed=0, checkpoint=5)
            drawn = ENTROPY.sampled_output_gradients(outputs.detach(), uniforms)
            return (outputs * drawn).sum()
        return nn.functional.cross_entropy(outputs, labels, reduction="sum")

    def compute_measurement(self, batch: list[Tensor], model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)


class Kronfluence:
    """EK-FAC influence functions in single precision with kronfluence's defaults, on the CPU.

    Args:
        model: with the weights to attribute; copied.
        data: inputs and labels; factors use the first ``fitted`` rows, scores the first ``scored``, and the
            last ``scored`` are the query.
    """

    def __init__(
        self, model: nn.Module, data: tuple[Tensor, Tensor], fitted: int, scored: int, folder: Path
    ) -> None:
        logging.getLogger("kronfluence").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="kronfluence")
        inputs, labels = data
        rows = TensorDataset(inputs, labels, torch.arange(len(labels)))
        self.fitted, self.scored = (torch.utils.data.Subset(rows, range(count)) for count in (fitted, scored))
        self.query = torch.utils.data.Subset(rows, range(len(labels) - scored, len(labels)))
        work = Classification()
        prepared = analyzer.prepare_model(copy.deepcopy(model), work)
        self.analyzer = analyzer.Analyzer(
            "speed", prepared, work, cpu=True, disable_tqdm=True, output_dir=str(folder)
        )

    def factors(self) -> None:
        self.analyzer.fit_all_factors(
            "ekfac",
            self.fitted,
            per_device_batch_size=BATCH,
            factor_args=arguments.FactorArguments(strategy="ekfac"),
            overwrite_output_dir=True,
        )

    def self_influence(self) -> Tensor:
        self.analyzer.compute_self_scores(
            "own",
            factors_name="ekfac",
            train_dataset=self.scored,
            per_device_train_batch_size=BATCH,
            score_args=arguments.ScoreArguments(damping_factor=None),
            overwrite_output_dir=True,
        )
        return self.analyzer.load_self_scores("own")["all_modules"]

    def validation_score(self) -> Tensor:
        """Scores of the queries' summed loss and every row, ``[rows]``."""
        return self._pairwise("pairs", BATCH, aggregate_query_gradients=True).squeeze(0)

    def single_queries(self, queries: int) -> Tensor:
        """Scores of every query and row, ``[queries, rows]``; all queries are taken together."""
        return self._pairwise("single", queries)

    def _pairwise(self, name: str, query_batch: int, *, aggregate_query_gradients: bool = False) -> Tensor:
        self.analyzer.compute_pairwise_scores(
            name,
            factors_name="ekfac",
            query_dataset=self.query,
            train_dataset=self.scored,
            per_device_query_batch_size=query_batch,
            per_device_train_batch_size=BATCH,
            score_args=arguments.ScoreArguments(
                aggregate_query_gradients=aggregate_query_gradients, damping_factor=None
            ),
            overwrite_output_dir=True,
        )
        return self.analyzer.load_pairwise_scores(name)["all_modules"]
