"""Classification losses for exclusive classes: logits (B, C) and probabilities `shares` (B, C) to (B,)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def cross_entropy(logits: torch.Tensor, shares: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy (B,) with label smoothing (Szegedy et al. 2016, Rethinking the Inception
    Architecture)."""
    return F.cross_entropy(logits, shares, reduction="none", label_smoothing=label_smoothing)


def softmax_focal(logits: torch.Tensor, shares: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    """Focal loss (B,) with softmax: cross-entropy times (1 - p)^gamma, so easy rows count little.

    Lin et al. 2017, Focal Loss for Dense Object Detection, with softmax instead of its sigmoid.
    """
    log_p = F.log_softmax(logits, dim=1)
    return -(shares * (-log_p.expm1()) ** gamma * log_p).sum(1)


def symmetric_cross_entropy(
    logits: torch.Tensor, shares: torch.Tensor, alpha: float = 0.1, beta: float = 1.0, floor: float = -4.0
) -> torch.Tensor:
    """Symmetric cross-entropy (SCE), (B,): `alpha` times CE plus `beta` times reverse CE.

    The reverse term swaps prediction and target; the logarithm of a zero target is replaced by `floor`. Wang
    et al. 2019, Symmetric Cross Entropy for Robust Learning with Noisy Labels.
    """
    log_shares = shares.log().clamp(min=floor)
    reverse = -(logits.softmax(1) * log_shares).sum(1)
    return alpha * cross_entropy(logits, shares) + beta * reverse


def generalized_cross_entropy(logits: torch.Tensor, shares: torch.Tensor, q: float = 0.7) -> torch.Tensor:
    """Generalized cross-entropy (GCE), (B,): (1 - p^q) / q of the target's probability p.

    It approaches cross-entropy as q goes to 0, and is 1 - p (MAE) at q = 1, on which a wrong label has the
    least effect. Zhang, Sabuncu 2018, Generalized Cross Entropy Loss for Training Deep Neural Networks with
    Noisy Labels.
    """
    return -(shares * (q * F.log_softmax(logits, dim=1)).expm1()).sum(1) / q


def multiclass_hinge(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Multiclass hinge loss (SVM), (B,): 1 plus the best other logit minus the target's logit, at least 0.

    Crammer, Singer 2001, On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines. The
    logits are not calibrated: calibrate them before averaging them with other models.
    """
    first, second = logits.topk(2, dim=1).values.unbind(1)  # (B,) each
    others = torch.where(is_top(logits), second[:, None], first[:, None])  # (B, C) best other logit
    return (shares * F.relu(1 + others - logits)).sum(1)


def is_top(logits: torch.Tensor) -> torch.Tensor:
    """Boolean (B, C): whether a class is the argmax of its row (the first one in a tie)."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.argmax(1, keepdim=True), True)
