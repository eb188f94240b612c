"""Losses for masks, per sample: logits and targets (B, C, H, W) to (B,).

Targets lie in [0, 1] and may be soft; a pixel that is NaN is unknown and left out of everything.
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
    """(B,) for classes on their own: binary cross-entropy, or another loss of cells, its mean over known
    pixels and classes, and `dice_weight` in [0, 1] of Dice."""
    dice = soft_dice(logits.sigmoid(), targets)
    return (1 - dice_weight) * masked_mean_loss(cell, logits, targets) + dice_weight * dice


def ce_dice(logits: torch.Tensor, targets: torch.Tensor, dice_weight: float) -> torch.Tensor:
    """(B,) for classes that exclude each other: cross-entropy with the background, its mean over known
    pixels, and `dice_weight` in [0, 1] of Dice over the classes.

    The background is a logit pinned at 0, which loses nothing, and has what the targets lack of 1. A pixel
    that is NaN in one class is unknown in all.
    """
    unknown = targets.isnan().any(1, keepdim=True)  # (B, 1, H, W)
    wanted = targets.masked_fill(unknown, 0)
    wanted = torch.cat([1 - wanted.sum(1, keepdim=True), wanted], dim=1)  # (B, 1 + C, H, W)
    logits = with_background(logits)
    entropy = masked_mean(F.cross_entropy(logits, wanted, reduction="none"), ~unknown.squeeze(1))
    dice = soft_dice(logits.softmax(1)[:, 1:], targets.masked_fill(unknown, torch.nan))
    return (1 - dice_weight) * entropy + dice_weight * dice


def soft_dice(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,) 1 - Dice of each image and class, its mean over the classes of which a pixel is known.

    With squares below the line (Milletari, Navab, Ahmadi 2016, V-Net), as soft targets are best met by
    themselves; without squares the best answer is a hard one. One pixel is added to either side, so that an
    empty mask asks for an empty answer.
    """
    known = ~targets.isnan()
    wanted = torch.where(known, targets, 0)
    said = torch.where(known, probabilities, 0)
    # 1 - (2 st + 1) / (s^2 + t^2 + 1) is this, and keeps its digits where the two agree
    apart = ((said - wanted) ** 2).sum((2, 3))  # (B, C)
    losses = apart / ((said**2).sum((2, 3)) + (wanted**2).sum((2, 3)) + 1)
    return masked_mean(losses, known.flatten(2).any(2))
