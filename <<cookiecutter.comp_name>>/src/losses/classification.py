"""Losses for one label out of C classes. Shapes: logits (B, C), targets (B, C) rows adding to 1, result
(B,)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy with soft targets, in float32; label smoothing by Szegedy et al. 2016, Rethinking the
    Inception."""
    return F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)


def distillation(logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL from teacher to pupil at a temperature, times its square so that gradients keep their scale.

    Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network.
    """
    pupil = F.log_softmax(logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    return F.kl_div(pupil, teacher, reduction="none", log_target=True).sum(1) * temperature**2
