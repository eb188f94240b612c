"""What differs between tasks, and nothing else. A task is one module with one class; `base.py` says what it
answers."""

from __future__ import annotations

from src.config import Config, UserError
from src.metrics import create_metric
from src.tasks.base import Task
from src.tasks.binary import Binary
from src.tasks.multiclass import Multiclass
from src.tasks.multilabel import Multilabel
from src.tasks.regression import Regression

TASKS: dict[str, type[Task]] = {task.name: task for task in (Multiclass, Binary, Multilabel, Regression)}


def create_task(config: Config) -> Task:
    """The task this config names, with its metric; raises `UserError` for one that is not there yet."""
    if config.task.name not in TASKS:
        raise UserError(
            f"task.name: {config.task.name!r} comes with a later release; today there is {', '.join(TASKS)}"
        )
    return TASKS[config.task.name](metric=create_metric(config.task.name, config.task.metric))
