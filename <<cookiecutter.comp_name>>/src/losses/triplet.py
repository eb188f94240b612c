"""Batch-hard triplet loss: pulls rows of one class together and pushes other classes away."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

TOUCHING = 1e-12  # squared distance below which two rows are one point: sqrt has no gradient at zero


def batch_hard_triplet(
    embedding: torch.Tensor, labels: torch.Tensor, margin: float | Literal["soft"]
) -> torch.Tensor:
    """Batch-hard triplet loss (B,): relu(d(hardest positive) - d(hardest negative) + margin).

    Positives and negatives are those in the batch. With `margin="soft"` it is the softplus of the difference.
    Distances are Euclidean, 0 to 2, between L2-normalised embeddings (B, D). A row without a positive or
    without a negative costs 0. Labels (B,) are int64 class indices; a row with a negative one is unknown: it
    costs 0 and is no positive or negative of another.

    Hermans, Beyer, Leibe 2017, In Defense of the Triplet Loss for Person Re-Identification.
    """
    unit = F.normalize(embedding, dim=1)  # (B, D)
    known = labels >= 0
    same = labels[:, None] == labels[None, :]  # (B, B)
    positives = same & known[:, None] & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    negatives = ~same & known[:, None] & known[None, :]
    with torch.no_grad():  # only selects the hardest; distances are computed below without cancellation
        cosines = unit @ unit.T  # (B, B)
        farthest = cosines.masked_fill(~positives, torch.inf).argmin(1)
        nearest = cosines.masked_fill(~negatives, -torch.inf).argmax(1)
    difference = distance(unit, unit[farthest]) - distance(unit, unit[nearest])  # (B,)
    losses = F.softplus(difference) if margin == "soft" else F.relu(difference + margin)
    return torch.where(positives.any(1) & negatives.any(1), losses, 0.0)


def distance(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Euclidean distance (B,) between rows (B, D); without a gradient if they coincide."""
    return (left - right).square().sum(1).clamp(min=TOUCHING).sqrt()
