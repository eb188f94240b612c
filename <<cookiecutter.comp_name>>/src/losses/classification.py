"""Losses for classes. `cross_entropy` is per sample (B,); the others are per cell (B, C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """(B,) cross-entropy with soft targets (B, C), in float32.

    Label smoothing by Szegedy et al. 2016, Rethinking the Inception Architecture.
    """
    return F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)


def binary_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """(B, C) binary cross-entropy of logits with soft targets; smoothing moves targets towards one half."""
    smooth = targets * (1 - label_smoothing) + 0.5 * label_smoothing
    return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
