"""Class weights, computed from the training rows of the fold only.

Weights are scaled so that their mean over those rows is 1, so the learning rate keeps its meaning. A soft
target counts in proportion to its classes, and a NaN does not count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from src.config import Losses, UserError
from src.data.classes import ClassTargets


def class_counts(targets: np.ndarray | ClassTargets, n_outputs: int) -> torch.Tensor:
    """Number of rows per class, (C,), from targets (N, C), or from class indices (N, 1)."""
    if isinstance(targets, ClassTargets):
        return torch.from_numpy(targets.sum(0))
    if targets.shape[1] == 1:
        numbers = targets[~np.isnan(targets)].astype(np.int64)
        return torch.from_numpy(np.bincount(numbers, minlength=n_outputs)).double()
    return torch.from_numpy(np.nansum(targets, axis=0, dtype=np.float64))


def weights_of_classes(settings: Losses, targets: np.ndarray, outputs: list[str]) -> torch.Tensor:
    """Class weights (C,) for mutually exclusive classes.

    With a mapping, the named classes have the given weights and all others 1, before scaling. Raises
    `UserError` for a class that does not exist.
    """
    counts = class_counts(targets, len(outputs))
    if isinstance(settings.class_weights, Mapping):
        raw = _named(settings.class_weights, outputs)
    else:
        raw = _by_rows(settings, counts)
    return raw * counts.sum() / (raw * counts).sum()


def weights_of_labels(settings: Losses, targets: np.ndarray, outputs: list[str]) -> torch.Tensor:
    """Weights (2, C) of the negatives and the positives of each label, from targets (N, C).

    With a mapping, the positives of a named label have the given weight and everything else 1, before scaling
    (`pos_weight`). Raises `UserError` for a label that does not exist.
    """
    yes = torch.from_numpy(np.nansum(targets, axis=0, dtype=np.float64))
    counts = torch.stack([torch.from_numpy((~np.isnan(targets)).sum(0)) - yes, yes])  # (2, C)
    if isinstance(settings.class_weights, Mapping):
        named = _named(settings.class_weights, outputs)
        raw = torch.stack([torch.ones_like(named), named])
    else:
        raw = _by_rows(settings, counts)
    return raw * counts.sum(0) / (raw * counts).sum(0)


def _by_rows(settings: Losses, counts: torch.Tensor) -> torch.Tensor:
    """Inverse-frequency weights, or class-balanced ones by the effective number of samples.

    The effective number grows more slowly than the row count, because similar images add less and less (Cui
    et al. 2019, Class-Balanced Loss Based on Effective Number of Samples). A class without rows counts as one
    with a single row.
    """
    rows = counts.clamp(min=1)
    if settings.class_weights == "inverse":
        return 1 / rows
    return -1 / torch.expm1(rows * math.log(settings.effective_beta))


def _named(weights: Mapping[str, float], outputs: list[str]) -> torch.Tensor:
    """Weights (C,) from a mapping by name, 1 for classes that are not in it."""
    unknown = [name for name in weights if name not in outputs]
    if unknown:
        shown = ", ".join(outputs[:8]) + (", ..." if len(outputs) > 8 else "")
        raise UserError(
            f"train.class_weights: there is no class {unknown[0]!r}; name some of {shown}, each with its "
            f"weight, such as {{{outputs[0]}: 2}}"
        )
    return torch.tensor([weights.get(name, 1.0) for name in outputs], dtype=torch.float64)
