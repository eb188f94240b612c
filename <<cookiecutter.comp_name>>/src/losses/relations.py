"""How far a pupil's view of a batch is from its teacher's, whatever the lengths and axes of their embeddings.

Park, Kim, Lu, Cho 2019, Relational Knowledge Distillation: what is handed on is how images lie to each other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

ANGLES = 2.0  # of an angle's cost against a distance's, in all of the paper's experiments


def relations(pupil: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """(B,) from embeddings (B, D) and (B, E): of each row the mean cost of its distances to the others, in
    units of the batch's mean distance, and of the angles between any two others as seen from it. Rows that
    lie on each other have no angle. It takes B^3 numbers a few times over: at 256 rows 64 MiB each."""
    with torch.autocast(pupil.device.type, enabled=False):
        ours, theirs = (_distances(x) for x in (pupil, teacher))
        others = ~torch.eye(len(pupil), dtype=torch.bool, device=pupil.device)
        distance = _mean(_cost(ours, theirs), others)
        apart = (ours > 0) & (theirs > 0)  # (B, B)
        corners = apart[:, :, None] & apart[:, None, :] & others  # (B, B, B), the row that looks first
        return distance + ANGLES * _mean(_cost(_angles(ours), _angles(theirs)), corners)


def _distances(embeddings: torch.Tensor) -> torch.Tensor:
    """(B, B), of mean 1 where there are any."""
    full = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    # by differences, not by products: near rows would be at noise's distance, with a gradient of noise
    found = torch.cdist(full, full, compute_mode="donot_use_mm_for_euclid_dist")
    return found / (found.sum() / (found > 0).sum().clamp(min=1)).clamp(min=1e-12)


def _angles(distances: torch.Tensor) -> torch.Tensor:
    """(B, B, B) cosines of the angle at the first row between the other two, by the law of cosines."""
    one, other, across = distances[:, :, None], distances[:, None, :], distances[None]
    legs = 2 * one * other
    return (one**2 + other**2 - across**2) / torch.where(legs > 0, legs, 1)


def _cost(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return F.smooth_l1_loss(ours, theirs, reduction="none")


def _mean(costs: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(B,) over what counts of each row; 0 where nothing does."""
    costs, counted = costs.flatten(1), counted.flatten(1)
    return torch.where(counted, costs, 0).sum(1) / counted.sum(1).clamp(min=1)
