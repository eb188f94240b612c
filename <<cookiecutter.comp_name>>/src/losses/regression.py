"""Regression losses, per cell: outputs and targets (B, C), both standardised, to (B, C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared error (MSE, L2), (B, C)."""
    return (outputs - targets) ** 2


def absolute_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Absolute error (MAE, L1), (B, C)."""
    return (outputs - targets).abs()


def huber(outputs: torch.Tensor, targets: torch.Tensor, delta: float = 1.0) -> torch.Tensor:
    """Huber loss (B, C): quadratic near zero, linear beyond `delta` standard deviations (Huber 1964)."""
    return F.huber_loss(outputs, targets, reduction="none", delta=delta)
