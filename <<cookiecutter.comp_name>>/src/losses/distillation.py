"""How far a pupil is from its teacher, (B, C) both, to (B,). Hinton, Vinyals, Dean 2015, Distilling the
Knowledge in a Neural Network. Temperatures come with their square, so that gradients keep their scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def distillation(kind: str, pupil: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """`kl` for classes that add to 1, `bce` for labels on their own, `mse` for numbers (which have no
    temperature)."""
    pupil, teacher = pupil.float(), teacher.float()
    if kind == "mse":
        return ((pupil - teacher) ** 2).mean(1)
    if kind == "bce":
        told = (teacher / temperature).sigmoid()
        losses = F.binary_cross_entropy_with_logits(pupil / temperature, told, reduction="none")
        return losses.mean(1) * temperature**2
    if kind != "kl":
        raise ValueError(f"no distillation is called {kind!r}; there are kl, bce, mse")
    log_pupil, log_teacher = (F.log_softmax(x / temperature, dim=1) for x in (pupil, teacher))
    return F.kl_div(log_pupil, log_teacher, reduction="none", log_target=True).sum(1) * temperature**2
