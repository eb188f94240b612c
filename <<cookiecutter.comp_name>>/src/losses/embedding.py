"""Losses that shape an embedding: rows of one identity close together, all others far away. Per sample, (B,).

Labels (B,) int64 number the identities. A negative one is unknown: its row costs nothing, and is nobody's
positive or negative.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F

from src.config import Margin
from src.models.output import Loss, Output

SURE = 0.9999  # how probable a row in the very centre of its identity should be able to get
LEAST_SCALE = 10.0  # with few identities the bound asks so little that cosines would hardly spread
FLAT = 1e-6  # squared sine below which an angle's gradient is left out; it grows without end towards zero
TOUCHING = 1e-12  # squared distance below which two rows are one point: a root has no gradient at zero


def create_arcface(settings: Margin, n_outputs: int, triplet: bool) -> Loss:
    """ArcFace of the cosines `output.logits` (B, n_outputs), and with `triplet` the batch-hard triplet of
    `output.metric` (B, D), times `settings.triplet_weight`. Targets are (B, 1): an identity's number, or
    NaN where it is unknown."""
    scale = default_scale(n_outputs) if settings.scale is None else settings.scale

    def loss(output: Output, targets: torch.Tensor) -> torch.Tensor:
        labels = targets[:, 0].nan_to_num(nan=-1.0).long()  # (B,)
        losses = arcface(output.logits, labels, scale, settings.angle)
        if triplet:
            hard = batch_hard_triplet(output.metric, labels, settings.triplet)
            losses = losses + settings.triplet_weight * hard
        return losses

    return loss


def default_scale(n_outputs: int) -> float:
    """The scale at which a row in the centre of its identity, all C centres as far apart as they can be,
    reaches a probability P of 0.9999: (C - 1) / C * ln((C - 1) P / (1 - P)), and never less than 10.

    The lower bound of Wang et al. 2018, CosFace: Large Margin Cosine Loss for Deep Face Recognition: 10 for
    10 identities, 16 for a thousand, 21 for a hundred thousand.
    """
    others = max(n_outputs - 1, 1)
    return max(LEAST_SCALE, others / (others + 1) * math.log(others * SURE / (1 - SURE)))


def arcface(cosines: torch.Tensor, labels: torch.Tensor, scale: float, angle: float) -> torch.Tensor:
    """(B,) cross-entropy of cosines (B, C) times `scale`, after `angle` radians are added to the angle
    between a row and its own identity; in float32.

    Deng et al. 2019, ArcFace: Additive Angular Margin Loss for Deep Face Recognition. Where the sum would
    pass 180 degrees, and the cosine rise again, angle * sin(angle) is taken off the cosine instead.
    """
    cosines = cosines.float()
    own = labels.clamp(min=0)[:, None]  # (B, 1)
    cosine = cosines.gather(1, own)
    sine = (1 - cosine**2).clamp(min=FLAT).sqrt()
    wider = cosine * math.cos(angle) - sine * math.sin(angle)  # cos(theta + angle)
    wider = torch.where(cosine > -math.cos(angle), wider, cosine - angle * math.sin(angle))
    logits = scale * cosines.scatter(1, own, wider)  # (B, C)
    return F.cross_entropy(logits, labels.clamp(min=-1), ignore_index=-1, reduction="none")


def batch_hard_triplet(
    embedding: torch.Tensor, labels: torch.Tensor, margin: float | Literal["soft"]
) -> torch.Tensor:
    """(B,) how much nearer than its farthest positive a row's nearest negative in the batch is, beyond
    `margin`; with "soft" the softplus of that difference. Euclidean distances, 0 to 2, between embeddings
    (B, D) of length 1. A row without another of its identity, or without one of another, costs 0.

    Hermans, Beyer, Leibe 2017, In Defense of the Triplet Loss for Person Re-Identification.
    """
    with torch.autocast(embedding.device.type, enabled=False):  # halves cannot tell near rows apart
        unit = F.normalize(embedding.float(), dim=1)  # (B, D)
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
