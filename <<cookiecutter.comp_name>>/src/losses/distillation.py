"""Knowledge distillation losses: student and teacher logits, (B, C) or (B, C, H, W), to (B,).

Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network. Losses with a temperature are
multiplied by its square, so that gradients keep their scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from src.models.output import with_background


def distillation(kind: str, pupil: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Distillation loss (B,) of a kind.

    `kl`: logits of mutually exclusive classes; `exclusive`: the same with an implicit background; `bce`:
    logits of independent labels. `mse` for numbers and `cosine` for embeddings (B, D) have no temperature.
    Raises `ValueError` for an unknown kind or for embeddings of different lengths.
    """
    if kind == "cosine":
        if pupil.shape != teacher.shape:
            found = f"{tuple(pupil.shape)} and {tuple(teacher.shape)}"
            raise ValueError(f"embeddings of pupil and teacher must have one length, these are {found}")
        return 1 - F.cosine_similarity(pupil.float(), teacher.float())
    losses = cells(kind, pupil, teacher, temperature).flatten(1).mean(1)
    return losses if kind == "mse" else losses * temperature**2


def cells(kind: str, pupil: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Per-cell distillation loss, before the mean and without the factor temperature squared.

    The shape is (B, C, ...) for `bce` and `mse`, and (B, 1, ...) for mutually exclusive classes.
    """
    pupil, teacher = pupil.float(), teacher.float()
    if kind == "mse":
        return (pupil - teacher) ** 2
    if kind == "bce":
        told = (teacher / temperature).sigmoid()
        return F.binary_cross_entropy_with_logits(pupil / temperature, told, reduction="none")
    if kind == "exclusive":
        return cells("kl", with_background(pupil), with_background(teacher), temperature)
    if kind != "kl":
        raise ValueError(f"no distillation is called {kind!r}; there are kl, exclusive, bce, mse, cosine")
    log_pupil, log_teacher = (F.log_softmax(x / temperature, dim=1) for x in (pupil, teacher))
    return F.kl_div(log_pupil, log_teacher, reduction="none", log_target=True).sum(1, keepdim=True)


def hard_distillation(kind: str, pupil: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Hard distillation loss (B,) for `kl`, `exclusive` and `bce`: cross-entropy with the teacher's hard
    prediction per row, label or pixel (Touvron et al. 2021, Training Data-Efficient Image Transformers)."""
    pupil = pupil.float()
    if kind == "exclusive":
        return hard_distillation("kl", with_background(pupil), with_background(teacher))
    if kind == "bce":
        losses = F.binary_cross_entropy_with_logits(pupil, (teacher > 0).float(), reduction="none")
    else:
        losses = F.cross_entropy(pupil, teacher.argmax(1), reduction="none").unsqueeze(1)
    return losses.flatten(1).mean(1)


def averaged(kind: str, several: list[torch.Tensor], temperature: float) -> torch.Tensor:
    """Ensemble of teachers: logits of their mean probabilities at this temperature.

    Inputs are logits (B, C, ...). Probabilities are averaged, not logits, since one overconfident teacher
    would dominate a mean of logits. `mse`: the mean of numbers. `cosine`: concatenated normalised embeddings
    (B, D), whose cosine is the mean of the teachers' cosines, because embeddings of different runs share no
    axes.
    """
    if len(several) == 1:
        return several[0]
    several = [one.float() for one in several]
    if kind == "cosine":
        return torch.cat([F.normalize(one, dim=1) for one in several], dim=1)
    if kind == "mse":
        return torch.stack(several).mean(0)
    if kind == "exclusive":
        said = averaged("kl", [with_background(one) for one in several], temperature)
        return said[:, 1:] - said[:, :1]
    cold = [one / temperature for one in several]
    if kind == "bce":
        yes, no = (_log_mean([F.logsigmoid(sign * one) for one in cold]) for sign in (1, -1))
        return (yes - no) * temperature
    return _log_mean([one.log_softmax(1) for one in cold]) * temperature


def _log_mean(logs: list[torch.Tensor]) -> torch.Tensor:
    """Logarithm of the mean of exp(logs), up to a constant."""
    return torch.stack(logs).logsumexp(0)
