"""How far a pupil is from its teacher, (B, C) or (B, C, H, W) both, to (B,). Hinton, Vinyals, Dean 2015,
Distilling the Knowledge in a Neural Network. Temperatures come with their square, so that gradients keep
their scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from src.models.output import with_background


def distillation(kind: str, pupil: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """`kl` for classes that add to 1, `exclusive` for those that do so with a background, `bce` for labels on
    their own: logits. `mse` for numbers and `cosine` for embeddings (B, D) have no temperature."""
    pupil, teacher = pupil.float(), teacher.float()
    if kind == "cosine":
        if pupil.shape != teacher.shape:
            found = f"{tuple(pupil.shape)} and {tuple(teacher.shape)}"
            raise ValueError(f"embeddings of pupil and teacher must have one length, these are {found}")
        return 1 - F.cosine_similarity(pupil, teacher)
    if kind == "mse":
        return _mean((pupil - teacher) ** 2)
    if kind == "bce":
        told = (teacher / temperature).sigmoid()
        losses = F.binary_cross_entropy_with_logits(pupil / temperature, told, reduction="none")
        return _mean(losses) * temperature**2
    if kind == "exclusive":
        return distillation("kl", with_background(pupil), with_background(teacher), temperature)
    if kind != "kl":
        raise ValueError(f"no distillation is called {kind!r}; there are kl, exclusive, bce, mse, cosine")
    log_pupil, log_teacher = (F.log_softmax(x / temperature, dim=1) for x in (pupil, teacher))
    losses = F.kl_div(log_pupil, log_teacher, reduction="none", log_target=True).sum(1, keepdim=True)
    return _mean(losses) * temperature**2


def _mean(losses: torch.Tensor) -> torch.Tensor:
    return losses.flatten(1).mean(1)
