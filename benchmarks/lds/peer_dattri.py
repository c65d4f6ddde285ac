"""dattri's influence functions by conjugate gradients (dattri 0.3), where that package is there.

Its requirements do not go with those of the project, so it is installed into an environment of its own:
`pip install --no-deps dattri==0.3.0`, beside the project.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.lds.bases import Base
from benchmarks.lds.peer import given, summed_loss, summed_query
from benchmarks.lds.tasks import Task

REGULARIZATION, ITERATIONS = 0.01, 10
"""Those of dattri's examples."""
MOST_PARAMETERS = 200_000
BATCH = 1000


def dattri_suits(task: Task, seed: int, _: str) -> bool:
    """Whether dattri is there and the model is as small as those that it is usually measured on."""
    sizes = sum(value.numel() for value in task.build().parameters())
    return (
        find_spec("dattri") is not None
        and seed == 0
        and task.folder == "fashion_mnist"
        and sizes <= MOST_PARAMETERS
    )


def dattri_cg(base: Base, kind: str, _: str) -> Tensor:
    """τ of influence functions with the Hessian of the mean training loss: float64 `[queries, rows]`."""
    from dattri.algorithm.influence_function import IFAttributorCG
    from dattri.task import AttributionTask

    asked = given(base, kind)
    model, task = asked.model, base.task

    def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        outputs = torch.func.functional_call(model, parameters, (data[0],))
        return summed_loss(task, outputs, data[1]) / len(data[1])

    def measured(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        outputs = torch.func.functional_call(model, parameters, (data[0],))
        return summed_query(task, kind, outputs, data[1])

    state = {name: value.detach() for name, value in model.named_parameters()}
    work = AttributionTask(loss_func=loss, model=model, checkpoints=state, target_func=measured)
    attributor = IFAttributorCG(work, max_iter=ITERATIONS, regularization=REGULARIZATION)
    # One batch of all rows: dattri adds up what each batch's own Hessian gives.
    attributor.cache(DataLoader(TensorDataset(*asked.fitted), batch_size=len(asked.fitted[1])))
    rows, queries = (
        DataLoader(TensorDataset(*some), batch_size=BATCH) for some in (asked.rows, asked.queries)
    )
    found: Tensor = attributor.attribute(rows, queries)
    return found.detach().T.double() / len(asked.fitted[1])
