"""Targets that are only partly known: a pseudo-labelled row may be sure of some labels, or pixels, and not of
others."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def masked_mean_loss(
    cell: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], logits: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """(B,) mean of `cell(logits, targets)`, (B, C, ...), over the targets that are no NaN; 0 where none is
    known."""
    known = ~targets.isnan()
    return masked_mean(cell(logits, torch.where(known, targets, torch.zeros_like(targets))), known)


def masked_mean(losses: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """(B,) mean of losses (B, ...) where `known`, of the same shape, is true; 0 where it is nowhere."""
    return (losses * known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)


def class_shares(targets: torch.Tensor, n_outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What each class has of a row, (B, C), and (B,) whether that is known. Targets are these very shares, or
    (B, 1) the number of a class; a NaN is unknown, and so is then the whole row, whose shares are those of
    class 0."""
    known = ~targets.isnan().any(1)
    if targets.shape[1] == 1:
        numbers = targets[:, 0].nan_to_num(nan=0.0).long()
        return F.one_hot(numbers, n_outputs).to(targets.dtype), known
    somebody = F.one_hot(torch.zeros_like(known, dtype=torch.long), n_outputs).to(targets.dtype)
    return torch.where(known[:, None], targets, somebody), known


def cells_of_sets(values: torch.Tensor) -> torch.Tensor:
    """(B, C) labels to (B, 1, C), one set a row; (B, C, H, W) masks to (B, C, H * W), one an image and
    class."""
    return values[:, None] if values.ndim == 2 else values.flatten(2)
