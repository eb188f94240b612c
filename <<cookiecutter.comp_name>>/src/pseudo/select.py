"""Which test rows one fold's model is sure enough of to learn from, and what label they get."""

from __future__ import annotations

import numpy as np
import pandas as pd

from src.config import Pseudo
from src.tasks.base import Task


def select(predictions: pd.DataFrame, task: Task, outputs: list[str], settings: Pseudo) -> pd.DataFrame:
    """The confident rows of a fold's test predictions: id, `confidence`, then the target a column an output.

    Soft targets are the predictions themselves; hard ones what they stand for. Lee 2013, Pseudo-Label. Made
    anew every round, so that a label can be withdrawn.
    """
    values = predictions[outputs].to_numpy(np.float32)
    confidence = task.confidence(values)
    chosen = confidence >= settings.threshold
    targets = task.harden(values[chosen]) if settings.labels == "hard" else values[chosen]
    table = pd.DataFrame(targets, columns=outputs)
    table.insert(0, "id", predictions["id"].to_numpy()[chosen])
    table.insert(1, "confidence", confidence[chosen])
    return table


def agreement(now: pd.DataFrame, before: pd.DataFrame | None, outputs: list[str]) -> float | None:
    """Of the rows selected in both rounds, the share that kept their label; None where there are none."""
    if before is None:
        return None
    both = now.merge(before, on="id", suffixes=("", "_before"))
    if not len(both):
        return None
    label = both[outputs].to_numpy().argmax(1)
    return float((label == both[[f"{name}_before" for name in outputs]].to_numpy().argmax(1)).mean())
