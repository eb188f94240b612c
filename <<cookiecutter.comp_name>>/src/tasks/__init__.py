"""The tasks: all code that differs between tasks. Each task is one module with one class; `base.py` defines
the interface."""

from __future__ import annotations

from src.config import Config
from src.metrics import create_metric
from src.tasks.base import Task
from src.tasks.binary import Binary
from src.tasks.multiclass import Multiclass
from src.tasks.multilabel import Multilabel
from src.tasks.regression import Regression
from src.tasks.retrieval import Retrieval
from src.tasks.segmentation import Segmentation

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Multiclass, Binary, Multilabel, Regression, Segmentation, Retrieval)
}


def create_task(config: Config) -> Task:
    """The task named in the config, with its metric."""
    return TASKS[config.task.name].create(config, create_metric(config.task.name, config.task.metric))
