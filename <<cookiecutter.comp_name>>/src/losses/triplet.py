"""The batch-hard triplet: rows of one class close together, all others far away."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

TOUCHING = 1e-12  # squared distance below which two rows are one point: a root has no gradient at zero


def batch_hard_triplet(
    embedding: torch.Tensor, labels: torch.Tensor, margin: float | Literal["soft"]
) -> torch.Tensor:
    """(B,) how much nearer than its farthest positive a row's nearest negative in the batch is, beyond
    `margin`; with "soft" the softplus of that difference. Euclidean distances, 0 to 2, between embeddings
    (B, D) of length 1. A row without another of its class, or without one of another, costs 0. Labels (B,)
    int64 number the classes; a negative one is unknown: its row costs nothing, and is nobody's positive or
    negative.

    Hermans, Beyer, Leibe 2017, In Defense of the Triplet Loss for Person Re-Identification.
    """
    unit = F.normalize(embedding, dim=1)  # (B, D)
    known = labels >= 0
    same = labels[:, None] == labels[None, :]  # (B, B)
    positives = same & known[:, None] & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    negatives = ~same & known[:, None] & known[None, :]
    with torch.no_grad():  # only who is hardest; the two distances are then taken without cancellation
        cosines = unit @ unit.T  # (B, B)
        farthest = cosines.masked_fill(~positives, torch.inf).argmin(1)
        nearest = cosines.masked_fill(~negatives, -torch.inf).argmax(1)
    difference = distance(unit, unit[farthest]) - distance(unit, unit[nearest])  # (B,)
    losses = F.softplus(difference) if margin == "soft" else F.relu(difference + margin)
    return torch.where(positives.any(1) & negatives.any(1), losses, 0.0)


def distance(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(B,) Euclidean distance of rows (B, D); without a gradient where they are one point."""
    return (left - right).square().sum(1).clamp(min=TOUCHING).sqrt()
