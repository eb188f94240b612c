"""Losses for numbers, per cell: (B, C) outputs and targets, both standardised, to (B, C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B, C) squared difference."""
    return (outputs - targets) ** 2


def absolute_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B, C) absolute difference."""
    return (outputs - targets).abs()


def huber(outputs: torch.Tensor, targets: torch.Tensor, delta: float = 1.0) -> torch.Tensor:
    """(B, C) squared near zero, absolute beyond `delta` standard deviations (Huber 1964)."""
    return F.huber_loss(outputs, targets, reduction="none", delta=delta)
