"""The tasks by their words."""

from __future__ import annotations

from pipeline.tasks.classification import CLASSIFICATION
from pipeline.tasks.multilabel import MULTILABEL
from pipeline.tasks.regression import REGRESSION
from pipeline.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION, REGRESSION, MULTILABEL)}
