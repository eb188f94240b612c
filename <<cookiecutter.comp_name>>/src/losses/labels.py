"""Losses for independent binary labels, per cell: logits and soft targets in [0, 1] to the same shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

CellLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits and targets to the same shape


def weighted(cell: CellLoss, weights: torch.Tensor | None) -> CellLoss:
    """`cell` with class weights (2, C) for the negatives and the positives of each label.

    A soft target (B, C) interpolates between the two weights. Without weights `cell` is returned.
    """
    if weights is None:
        return cell

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        no, yes = weights.to(logits)
        return (no + targets * (yes - no)) * cell(logits, targets)

    return loss


def binary_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Binary cross-entropy (BCE); label smoothing moves targets towards 0.5."""
    smooth = targets * (1 - label_smoothing) + 0.5 * label_smoothing
    return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")


def sigmoid_focal(
    logits: torch.Tensor, targets: torch.Tensor, gamma: float = 2.0, alpha: float | None = None
) -> torch.Tensor:
    """Sigmoid focal loss: BCE times (1 - p_t)^gamma; `alpha` weights positives, 1 - alpha negatives.

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
    """Asymmetric loss (ASL): focal loss with separate gammas for positives and negatives.

    The probability of negatives is lowered by `shift` first, so easy negatives cost nothing: most labels of a
    row are absent. Ridnik et al. 2021, Asymmetric Loss For Multi-Label Classification.
    """
    absent = logits.neg().sigmoid()  # 1 - p, accurate where p is near 1
    shifted = (absent + shift).clamp(max=1)
    log_absent = shifted.log() if shift > 0 else F.logsigmoid(-logits)  # never the logarithm of 0
    yes = absent**gamma_positive * F.logsigmoid(logits)
    no = (1 - shifted) ** gamma_negative * log_absent
    return -(targets * yes + (1 - targets) * no)


def binary_hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary hinge loss (SVM): max(0, 1 - logit) for positives, max(0, 1 + logit) for negatives.

    Cortes, Vapnik 1995, Support-Vector Networks. The logits are not calibrated: calibrate them before
    averaging them with other models.
    """
    return targets * F.relu(1 - logits) + (1 - targets) * F.relu(1 + logits)
