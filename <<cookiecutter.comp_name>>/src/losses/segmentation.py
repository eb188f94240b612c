"""Segmentation losses, per sample: logits and targets (B, C, H, W) to (B,).

Targets are in [0, 1] and may be soft. A NaN pixel is unknown and left out everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from src.losses.labels import CellLoss, binary_cross_entropy
from src.losses.masked import masked_mean, masked_mean_loss
from src.models.output import with_background


def bce_dice(
    logits: torch.Tensor,
    targets: torch.Tensor,
    dice_weight: float,
    cell: CellLoss = binary_cross_entropy,
) -> torch.Tensor:
    """BCE + Dice loss (B,) for independent classes: (1 - dice_weight) * BCE + dice_weight * Dice.

    `cell` may replace BCE (focal loss, for instance); it is averaged over known pixels and classes.
    `dice_weight` is in [0, 1].
    """
    dice = soft_dice(logits.sigmoid(), targets)
    return (1 - dice_weight) * masked_mean_loss(cell, logits, targets) + dice_weight * dice


def ce_dice(logits: torch.Tensor, targets: torch.Tensor, dice_weight: float) -> torch.Tensor:
    """Cross-entropy + Dice loss (B,) for exclusive classes: (1 - dice_weight) * CE + dice_weight * Dice.

    Cross-entropy includes the background and is averaged over known pixels; Dice is over the classes alone.
    The background has the constant logit 0, which costs no generality, and the rest of the target
    probability. A pixel that is NaN in one class is unknown in all. `dice_weight` is in [0, 1].
    """
    unknown = targets.isnan().any(1, keepdim=True)  # (B, 1, H, W)
    wanted = targets.masked_fill(unknown, 0)
    wanted = torch.cat([1 - wanted.sum(1, keepdim=True), wanted], dim=1)  # (B, 1 + C, H, W)
    logits = with_background(logits)
    entropy = masked_mean(F.cross_entropy(logits, wanted, reduction="none"), ~unknown.squeeze(1))
    dice = soft_dice(logits.softmax(1)[:, 1:], targets.masked_fill(unknown, torch.nan))
    return (1 - dice_weight) * entropy + dice_weight * dice


def soft_dice(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Soft Dice loss (B,): 1 - Dice per image and class, averaged over the classes with a known pixel.

    The denominator has squares (Milletari, Navab, Ahmadi 2016, V-Net), so that a soft target is its own
    optimum; without squares the optimum is a hard mask. One pixel is added to numerator and denominator, so
    that an empty mask prefers an empty prediction.
    """
    known = ~targets.isnan()
    wanted = torch.where(known, targets, 0)
    said = torch.where(known, probabilities, 0)
    # equal to 1 - (2 st + 1) / (s^2 + t^2 + 1), without cancellation where the two agree
    apart = ((said - wanted) ** 2).sum((2, 3))  # (B, C)
    losses = apart / ((said**2).sum((2, 3)) + (wanted**2).sum((2, 3)) + 1)
    return masked_mean(losses, known.flatten(2).any(2))
