"""Masked losses for partly known targets: NaN is unknown, as in partly pseudo-labelled rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def masked_mean_loss(
    cell: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], logits: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Mean (B,) of `cell(logits, targets)`, (B, C, ...), over the targets that are not NaN, or 0."""
    known = ~targets.isnan()
    return masked_mean(cell(logits, torch.where(known, targets, torch.zeros_like(targets))), known)


def masked_mean(losses: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean (B,) of losses (B, ...) where the mask `known`, of the same shape, is true; 0 if nowhere."""
    return (losses * known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)


def class_shares(targets: torch.Tensor, n_outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Class probabilities (B, C) of each row, and whether they are known, (B,) bool.

    Targets are these probabilities, or class indices (B, 1). A row with a NaN is unknown and gets the one-hot
    vector of class 0.
    """
    known = ~targets.isnan().any(1)
    if targets.shape[1] == 1:
        numbers = targets[:, 0].nan_to_num(nan=0.0).long()
        return F.one_hot(numbers, n_outputs).to(targets.dtype), known
    somebody = F.one_hot(torch.zeros_like(known, dtype=torch.long), n_outputs).to(targets.dtype)
    return torch.where(known[:, None], targets, somebody), known


def cells_of_sets(values: torch.Tensor) -> torch.Tensor:
    """Flatten labels (B, C) to (B, 1, C), one set per row, and masks to (B, C, H * W), one per class."""
    return values[:, None] if values.ndim == 2 else values.flatten(2)
