"""Losses of yes or no, cell by cell: logits and soft targets in [0, 1] of any one shape to that shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

CellLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits and targets to the same shape


def weighted(cell: CellLoss, weights: torch.Tensor | None) -> CellLoss:
    """`cell` times what a no and what a yes of each label counts for, weights (2, C), by how much of either a
    target (B, C) is."""
    if weights is None:
        return cell

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        no, yes = weights.to(logits)
        return (no + targets * (yes - no)) * cell(logits, targets)

    return loss


def binary_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Binary cross-entropy; smoothing moves targets towards one half."""
    smooth = targets * (1 - label_smoothing) + 0.5 * label_smoothing
    return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")


def sigmoid_focal(
    logits: torch.Tensor, targets: torch.Tensor, gamma: float = 2.0, alpha: float | None = None
) -> torch.Tensor:
    """Binary cross-entropy times the `gamma`th power of what was said wrongly; a yes counts `alpha` and a no
    1 - alpha where alpha is given.

    Lin et al. 2017, Focal Loss for Dense Object Detection.
    """
    return sigmoid_focal_loss(logits, targets, alpha=-1 if alpha is None else alpha, gamma=gamma)


def asymmetric(
    logits: torch.Tensor,
    targets: torch.Tensor,
    gamma_positive: float = 0.0,
    gamma_negative: float = 4.0,
    shift: float = 0.05,
) -> torch.Tensor:
    """Focal loss with a power for yes and one for no, whose probability is lowered by `shift` before: a row
    has few labels of many, and what is surely absent need not be learned.

    Ridnik et al. 2021, Asymmetric Loss For Multi-Label Classification.
    """
    absent = logits.neg().sigmoid()  # 1 - p, exact where p is near 1
    shifted = (absent + shift).clamp(max=1)
    log_absent = shifted.log() if shift > 0 else F.logsigmoid(-logits)  # which never is the logarithm of 0
    yes = absent**gamma_positive * F.logsigmoid(logits)
    no = (1 - shifted) ** gamma_negative * log_absent
    return -(targets * yes + (1 - targets) * no)


def binary_hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What the logit lacks of being 1 on the right side of 0 (Cortes, Vapnik 1995, Support-Vector Networks).
    Logits know no probability: calibrate them before they are averaged with others."""
    return targets * F.relu(1 - logits) + (1 - targets) * F.relu(1 + logits)
