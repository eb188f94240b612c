"""Margin softmax losses on cosines: ArcFace, CosFace, SphereFace and NormFace.

Cosines (B, C) in [-1, 1] and class probabilities `shares` (B, C) to (B,). A row of several classes, from
mixup or soft labels, has the weighted mean of the losses of its classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from src.config import Margin
from src.losses.classification import is_top

Widen = Callable[[torch.Tensor], torch.Tensor]  # cosines to the own class's cosine with margin, both (B, C)

_SURE = 0.9999  # probability that a row in the very centre of its class can reach
LEAST_SCALE = 10.0  # with few classes the bound is so low that cosines would hardly spread
COST = math.log(2)  # what a margin takes from the log-odds of a row in the very centre
FLAT = 1e-6  # squared sine below which the angle's gradient is dropped; it diverges at zero


def margin_softmax(cosines: torch.Tensor, shares: torch.Tensor, scale: float, widen: Widen) -> torch.Tensor:
    """Margin softmax (B,): cross-entropy of `scale` times cosines, with a margin on the own class's.

    `widen` applies the margin. Without one it is NormFace (Wang et al. 2017, NormFace: L2 Hypersphere
    Embedding for Face Verification).
    """
    losses = F.softplus(log_sum_of_others(scale * cosines) - scale * widen(cosines))  # (B, C)
    return (shares * losses).sum(1)


def create_widen(name: str, settings: Margin, n_outputs: int, counts: torch.Tensor | None = None) -> Widen:
    """The margin function of a loss (`normface`, `cosface`, `arcface`, `sphereface`).

    Its size is that of the settings or the default for the number of classes. With `settings.rarest` each
    class has its own margin, by its number of rows `counts` (C,).
    """
    size = margin_size(name, n_outputs) if settings.size is None else settings.size
    if settings.rarest is not None:
        size = sizes_by_rows(counts, size, settings.rarest)
    return {
        "normface": lambda cosines: cosines,
        "cosface": lambda cosines: cosines - _as_tensor(cosines, size),
        "arcface": partial(added_angle, angle=size),
        "sphereface": partial(multiplied_angle, factor=size),
    }[name]


def margin_scale(settings: Margin, n_outputs: int) -> float:
    """The scale s of a margin loss, by which cosines are multiplied before the softmax in network and loss.

    By default, a row at the centre of its class reaches the probability P = 0.9999 at this scale if all C
    centres are as far apart as possible: (C - 1) / C * ln((C - 1) P / (1 - P)), and at least 10. This is the
    lower bound of Wang et al. 2018, CosFace: Large Margin Cosine Loss for Deep Face Recognition: 10 for 10
    classes, 16 for a thousand, 21 for a hundred thousand.
    """
    if settings.scale is not None:
        return settings.scale
    others = max(n_outputs - 1, 1)
    return max(LEAST_SCALE, others / (others + 1) * math.log(others * _SURE / (1 - _SURE)))


def margin_size(name: str, n_outputs: int) -> float:
    """The default margin m for C classes.

    ArcFace: the angle that halves the odds of a row at the centre of its class, at the default scale s:
    arccos(1 - ln 2 / s). It is 0.37 for up to ten classes, 0.29 for a thousand and 0.26 for a hundred
    thousand; with more classes there is less space between centres.

    The other losses have the size that moves a row at a right angle to its class, as all are at the start, by
    the same angle: CosFace subtracts its sine from the cosine, and SphereFace multiplies the angle by 1 + 2 /
    pi of it.
    """
    angle = math.acos(1 - COST / margin_scale(Margin(), n_outputs))
    return {
        "normface": 0.0,
        "arcface": angle,
        "cosface": math.sin(angle),
        "sphereface": 1 + 2 * angle / math.pi,
    }[name]


def sizes_by_rows(counts: torch.Tensor, size: float, rarest: float) -> torch.Tensor:
    """Dynamic margins (C,) by class frequency: rows per class, `counts` (C,), to the power of -1/4.

    The rarest class has the margin `rarest`, the most common one `size`. A class without rows counts as one
    with a single row. Ha et al. 2020, Google Landmark Recognition 2020 Competition Third Place Solution.
    """
    falling = counts.clamp(min=1).double() ** -0.25
    low, high = falling.min(), falling.max()
    along = (falling - low) / (high - low).clamp(min=1e-12)  # 0 for all classes if they have equal counts
    return (size + (rarest - size) * along).float()


def added_angle(cosines: torch.Tensor, angle: float | torch.Tensor) -> torch.Tensor:
    """ArcFace (additive angular margin): cos(theta + angle).

    If the sum would exceed 180 degrees, where the cosine rises again, angle * sin(angle) is subtracted from
    the cosine instead. Deng et al. 2019, ArcFace: Additive Angular Margin Loss for Deep Face Recognition.
    """
    angle = _as_tensor(cosines, angle)
    sine = (1 - cosines**2).clamp(min=FLAT).sqrt()
    wider = cosines * angle.cos() - sine * angle.sin()
    return torch.where(cosines > -angle.cos(), wider, cosines - angle * angle.sin())


def multiplied_angle(cosines: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    """SphereFace (multiplicative angular margin): cos(factor * theta), with the gradient of cos(theta).

    It continues to fall beyond 180 degrees: (-1)^k cos(factor * theta) - 2 k. Liu et al. 2017, SphereFace:
    Deep Hypersphere Embedding for Face Recognition; in the form of Liu et al. 2022, SphereFace Revived, whose
    detached gradient trains without annealing.
    """
    with torch.no_grad():
        turned = _as_tensor(cosines, factor) * cosines.clamp(-1, 1).acos()
        k = (turned / math.pi).floor()
        moved = (1 - 2 * (k % 2)) * turned.cos() - 2 * k - cosines
    return cosines + moved


def log_sum_of_others(logits: torch.Tensor) -> torch.Tensor:
    """Log-sum-exp of the logits (B, C) of all classes except each one, (B, C)."""
    at_top = is_top(logits)
    whole = logits.logsumexp(1, keepdim=True)
    share = (logits - whole).exp().masked_fill(at_top, 0)  # at most one half, so no cancellation below
    rest = logits.masked_fill(at_top, -torch.inf).logsumexp(1, keepdim=True)
    return torch.where(at_top, rest, whole + torch.log1p(-share))


def _as_tensor(cosines: torch.Tensor, size: float | torch.Tensor) -> torch.Tensor:
    """A margin, a number or (C,), as a tensor with the dtype and device of the cosines."""
    return torch.as_tensor(size, dtype=cosines.dtype, device=cosines.device)
