"""Softmax over cosines, with a margin that a row must keep to its own class.

Cosines (B, C) in [-1, 1], and what each class has of a row, shares (B, C), to (B,). A row of several classes,
as mixing and soft labels give, loses its share of what a row of each alone would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from src.config import Margin
from src.losses.classification import is_top

Widen = Callable[[torch.Tensor], torch.Tensor]  # cosines to what counts of the own class's, both (B, C)

_SURE = 0.9999  # how probable a row in the very centre of its class should be able to get
LEAST_SCALE = 10.0  # with few classes the bound asks so little that cosines would hardly spread
COST = math.log(2)  # of its log-odds, what a margin takes from a row in the very centre
FLAT = 1e-6  # squared sine below which an angle's gradient is left out; it grows without end towards zero


def margin_softmax(cosines: torch.Tensor, shares: torch.Tensor, scale: float, widen: Widen) -> torch.Tensor:
    """(B,) cross-entropy of cosines times `scale`, a row's own being what `widen` makes of it. Without a
    margin: Wang et al. 2017, NormFace: L2 Hypersphere Embedding for Face Verification."""
    losses = F.softplus(log_sum_of_others(scale * cosines) - scale * widen(cosines))  # (B, C)
    return (shares * losses).sum(1)


def create_widen(name: str, settings: Margin, n_outputs: int, counts: torch.Tensor | None = None) -> Widen:
    """The margin of a loss's name, by its settings or by the rule for so many classes; with `settings.rarest`
    one for each class by its rows, `counts` (C,)."""
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
    """What cosines are multiplied by before the softmax, in the network and in the loss. By itself the scale
    at which a row in the centre of its class, all C centres as far apart as they can be, reaches a
    probability P of 0.9999: (C - 1) / C * ln((C - 1) P / (1 - P)), and never less than 10.

    The lower bound of Wang et al. 2018, CosFace: Large Margin Cosine Loss for Deep Face Recognition: 10 for
    10 classes, 16 for a thousand, 21 for a hundred thousand.
    """
    if settings.scale is not None:
        return settings.scale
    others = max(n_outputs - 1, 1)
    return max(LEAST_SCALE, others / (others + 1) * math.log(others * _SURE / (1 - _SURE)))


def margin_size(name: str, n_outputs: int) -> float:
    """The margin for C classes. The angle is the one that halves the odds of a row in the very centre of its
    class, at that many classes' scale s: arccos(1 - ln 2 / s), 0.37 for ten classes or fewer, 0.29 for a
    thousand, 0.26 for a hundred thousand; the more centres, the less room.

    The other losses get the size that moves a row at a right angle to its class, as all are at the start, by
    that angle: its sine off the cosine, or the angle times 1 + 2 / pi of it.
    """
    angle = math.acos(1 - COST / margin_scale(Margin(), n_outputs))
    return {
        "normface": 0.0,
        "arcface": angle,
        "cosface": math.sin(angle),
        "sphereface": 1 + 2 * angle / math.pi,
    }[name]


def sizes_by_rows(counts: torch.Tensor, size: float, rarest: float) -> torch.Tensor:
    """(C,) margins that fall with the rows of a class, `counts` (C,), to the power of -1/4: `rarest` for the
    rarest, `size` for the commonest. A class without rows counts as one with a row.

    Ha et al. 2020, Google Landmark Recognition 2020 Competition Third Place Solution.
    """
    falling = counts.clamp(min=1).double() ** -0.25
    low, high = falling.min(), falling.max()
    along = (falling - low) / (high - low).clamp(min=1e-12)  # 0 for all where all have as many rows
    return (size + (rarest - size) * along).float()


def added_angle(cosines: torch.Tensor, angle: float | torch.Tensor) -> torch.Tensor:
    """cos(theta + angle). Where the sum would pass 180 degrees, and the cosine rise again, angle * sin(angle)
    is taken off the cosine instead.

    Deng et al. 2019, ArcFace: Additive Angular Margin Loss for Deep Face Recognition.
    """
    angle = _as_tensor(cosines, angle)
    sine = (1 - cosines**2).clamp(min=FLAT).sqrt()
    wider = cosines * angle.cos() - sine * angle.sin()
    return torch.where(cosines > -angle.cos(), wider, cosines - angle * angle.sin())


def multiplied_angle(cosines: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    """cos(factor * theta), continued downwards past 180 degrees: (-1)^k cos(factor * theta) - 2 k. Its
    gradient is left that of the cosine.

    Liu et al. 2017, SphereFace: Deep Hypersphere Embedding for Face Recognition; in the form of Liu et al.
    2022, SphereFace Revived, whose detached gradient trains without annealing.
    """
    with torch.no_grad():
        turned = _as_tensor(cosines, factor) * cosines.clamp(-1, 1).acos()
        k = (turned / math.pi).floor()
        moved = (1 - 2 * (k % 2)) * turned.cos() - 2 * k - cosines
    return cosines + moved


def log_sum_of_others(logits: torch.Tensor) -> torch.Tensor:
    """(B, C) ln of the sum of exp(logits), (B, C), over all classes but each."""
    at_top = is_top(logits)
    whole = logits.logsumexp(1, keepdim=True)
    share = (logits - whole).exp().masked_fill(at_top, 0)  # one half at most, so nothing cancels below
    rest = logits.masked_fill(at_top, -torch.inf).logsumexp(1, keepdim=True)
    return torch.where(at_top, rest, whole + torch.log1p(-share))


def _as_tensor(cosines: torch.Tensor, size: float | torch.Tensor) -> torch.Tensor:
    """A margin, one for all or (C,), as a tensor beside the cosines."""
    return torch.as_tensor(size, dtype=cosines.dtype, device=cosines.device)
