"""How much a class, or a yes and a no of a label, counts: by the rows of the fold that trains, and no others.

Weights are scaled so that their mean over those rows is 1: the learning rate keeps its meaning. A soft target
counts for what it has of each, a NaN not at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from src.config import Losses, UserError
from src.data.classes import ClassTargets


def class_counts(targets: np.ndarray | ClassTargets, n_outputs: int) -> torch.Tensor:
    """(C,) rows of each class, of targets (N, C), or (N, 1) numbers of classes."""
    if isinstance(targets, ClassTargets):
        return torch.from_numpy(targets.sum(0))
    if targets.shape[1] == 1:
        numbers = targets[~np.isnan(targets)].astype(np.int64)
        return torch.from_numpy(np.bincount(numbers, minlength=n_outputs)).double()
    return torch.from_numpy(np.nansum(targets, axis=0, dtype=np.float64))


def weights_of_classes(settings: Losses, targets: np.ndarray, outputs: list[str]) -> torch.Tensor:
    """(C,) what a row of each class counts for. A class named in a mapping has that weight beside 1 for one
    that is not. Raises `UserError` for the name of none."""
    counts = class_counts(targets, len(outputs))
    if isinstance(settings.class_weights, Mapping):
        raw = _named(settings.class_weights, outputs)
    else:
        raw = _by_rows(settings, counts)
    return raw * counts.sum() / (raw * counts).sum()


def weights_of_labels(settings: Losses, targets: np.ndarray, outputs: list[str]) -> torch.Tensor:
    """(2, C) what a no and what a yes of each label counts for, of targets (N, C). A label named in a mapping
    has that weight for its yes beside 1 for its no. Raises `UserError` for the name of none."""
    yes = torch.from_numpy(np.nansum(targets, axis=0, dtype=np.float64))
    counts = torch.stack([torch.from_numpy((~np.isnan(targets)).sum(0)) - yes, yes])  # (2, C)
    if isinstance(settings.class_weights, Mapping):
        named = _named(settings.class_weights, outputs)
        raw = torch.stack([torch.ones_like(named), named])
    else:
        raw = _by_rows(settings, counts)
    return raw * counts.sum(0) / (raw * counts).sum(0)


def _by_rows(settings: Losses, counts: torch.Tensor) -> torch.Tensor:
    """One over the rows, or over their effective number (Cui et al. 2019, Class-Balanced Loss Based on
    Effective Number of Samples): the hundredth like image adds less than the first. None count as one."""
    rows = counts.clamp(min=1)
    if settings.class_weights == "inverse":
        return 1 / rows
    return -1 / torch.expm1(rows * math.log(settings.effective_beta))


def _named(weights: Mapping[str, float], outputs: list[str]) -> torch.Tensor:
    unknown = [name for name in weights if name not in outputs]
    if unknown:
        shown = ", ".join(outputs[:8]) + (", ..." if len(outputs) > 8 else "")
        raise UserError(
            f"train.class_weights: there is no class {unknown[0]!r}; name some of {shown}, each with its "
            f"weight, such as {{{outputs[0]}: 2}}"
        )
    return torch.tensor([weights.get(name, 1.0) for name in outputs], dtype=torch.float64)
