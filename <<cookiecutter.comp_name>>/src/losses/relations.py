"""Relational knowledge distillation (RKD): compares the distances and angles within a batch of embeddings.

It transfers the relations between images, so the embeddings of student and teacher may differ in length and
axes. Park, Kim, Lu, Cho 2019, Relational Knowledge Distillation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

ANGLES = 2.0  # weight of the angle loss relative to the distance loss, as in all of the paper's experiments


def relations(pupil: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """RKD loss (B,) from student embeddings `pupil` (B, D) and teacher embeddings (B, E).

    For each row: the mean loss of its distances to the others, in units of the batch's mean distance, plus
    the weighted mean loss of the angles at this row between any two others. Identical rows have no angle. It
    needs several tensors of B^3 numbers: 64 MiB each at 256 rows.
    """
    with torch.autocast(pupil.device.type, enabled=False):
        ours, theirs = (_distances(x) for x in (pupil, teacher))
        others = ~torch.eye(len(pupil), dtype=torch.bool, device=pupil.device)
        distance = _mean(_cost(ours, theirs), others)
        apart = (ours > 0) & (theirs > 0)  # (B, B)
        corners = apart[:, :, None] & apart[:, None, :] & others  # (B, B, B), the vertex first
        return distance + ANGLES * _mean(_cost(_angles(ours), _angles(theirs)), corners)


def _distances(embeddings: torch.Tensor) -> torch.Tensor:
    """Pairwise Euclidean distances (B, B), scaled to mean 1 over the non-zero ones."""
    full = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    # by differences, not by products: products lose the distance of similar rows in rounding noise, and the
    # gradient too
    found = torch.cdist(full, full, compute_mode="donot_use_mm_for_euclid_dist")
    return found / (found.sum() / (found > 0).sum().clamp(min=1)).clamp(min=1e-12)


def _angles(distances: torch.Tensor) -> torch.Tensor:
    """Cosines (B, B, B) of the angle at the first row between the other two, by the law of cosines."""
    one, other, across = distances[:, :, None], distances[:, None, :], distances[None]
    legs = 2 * one * other
    return (one**2 + other**2 - across**2) / torch.where(legs > 0, legs, 1)


def _cost(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Smooth L1 loss, per cell."""
    return F.smooth_l1_loss(ours, theirs, reduction="none")


def _mean(costs: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean (B,) of each row's costs where `counted` is true; 0 if it is nowhere true."""
    costs, counted = costs.flatten(1), counted.flatten(1)
    return torch.where(counted, costs, 0).sum(1) / counted.sum(1).clamp(min=1)
