"""Losses of one class out of C: logits (B, C) and what each class has of a row, shares (B, C), to (B,)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def cross_entropy(logits: torch.Tensor, shares: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """(B,) cross-entropy. Label smoothing by Szegedy et al. 2016, Rethinking the Inception Architecture."""
    return F.cross_entropy(logits, shares, reduction="none", label_smoothing=label_smoothing)


def softmax_focal(logits: torch.Tensor, shares: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    """(B,) cross-entropy times (1 - p)^gamma of each class's own probability: rows that are right and sure
    count for little.

    Lin et al. 2017, Focal Loss for Dense Object Detection, with softmax in place of its sigmoid.
    """
    log_p = F.log_softmax(logits, dim=1)
    return -(shares * (-log_p.expm1()) ** gamma * log_p).sum(1)


def symmetric_cross_entropy(
    logits: torch.Tensor, shares: torch.Tensor, alpha: float = 0.1, beta: float = 1.0, floor: float = -4.0
) -> torch.Tensor:
    """(B,) `alpha` of cross-entropy and `beta` of the reverse, in which prediction and target change places;
    the logarithm of a target of 0 counts as `floor`.

    Wang et al. 2019, Symmetric Cross Entropy for Robust Learning with Noisy Labels.
    """
    log_shares = shares.log().clamp(min=floor)
    reverse = -(logits.softmax(1) * log_shares).sum(1)
    return alpha * cross_entropy(logits, shares) + beta * reverse


def generalized_cross_entropy(logits: torch.Tensor, shares: torch.Tensor, q: float = 0.7) -> torch.Tensor:
    """(B,) (1 - p^q) / q of the target's probability: cross-entropy as q goes to 0, 1 - p at 1, which a wrong
    label pulls at least.

    Zhang, Sabuncu 2018, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels.
    """
    return -(shares * (q * F.log_softmax(logits, dim=1)).expm1()).sum(1) / q


def multiclass_hinge(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """(B,) what the target's logit lacks of being 1 above the best of the others.

    Crammer, Singer 2001, On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines. Its
    logits know no probability: calibrate them before they are averaged with others.
    """
    first, second = logits.topk(2, dim=1).values.unbind(1)  # (B,) each
    others = torch.where(is_top(logits), second[:, None], first[:, None])  # (B, C) the best but each
    return (shares * F.relu(1 + others - logits)).sum(1)


def is_top(logits: torch.Tensor) -> torch.Tensor:
    """(B, C) whether a class is the first of those with a row's highest logit."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.argmax(1, keepdim=True), True)
