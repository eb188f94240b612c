"""Lovász hinge and Lovász-Softmax losses: convex surrogates of the Jaccard index (IoU).

Berman, Triki, Blaschko 2018, The Lovász-Softmax Loss. Logits and targets (B, C), the labels of a row, or (B,
C, H, W) masks, to (B,). The index is defined on sets, so soft targets are rounded at 0.5, and a pixel belongs
to its most probable class. NaN targets are unknown and left out.
"""

from __future__ import annotations

import torch

from src.losses.masked import cells_of_sets, masked_mean
from src.models.output import with_background


def lovasz_hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Lovász hinge loss (B,) for independent classes.

    A set is all labels of a row, or the pixels of one class in an image; the result is the mean over the
    classes. The error of a cell is the hinge, 1 - logit for positives and 1 + logit for negatives.
    """
    logits, targets = cells_of_sets(logits), cells_of_sets(targets)
    known, wanted = ~targets.isnan(), targets >= 0.5
    wrong = 1 - torch.where(wanted, logits, -logits)
    return masked_mean(extension(wrong, wanted, known), known.any(2))


def lovasz_softmax(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Lovász-Softmax loss (B,) for mutually exclusive classes including the background.

    It is the mean over the classes present in an image. The error of a pixel is the distance of its class
    probability from 0 or 1.
    """
    known = ~targets.isnan().any(1, keepdim=True)  # (B, 1, H, W)
    shares = torch.where(known, targets, 0)
    shares = torch.cat([1 - shares.sum(1, keepdim=True), shares], dim=1)  # (B, 1 + C, H, W)
    numbers = torch.arange(shares.shape[1], device=shares.device).view(1, -1, 1, 1)
    wanted = cells_of_sets(shares.argmax(1, keepdim=True) == numbers)
    said = cells_of_sets(with_background(logits).softmax(1))
    known = cells_of_sets(known).expand_as(wanted)
    wrong = torch.where(wanted, 1 - said, said)
    return masked_mean(extension(wrong, wanted, known), (wanted & known).any(2))


def extension(wrong: torch.Tensor, wanted: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Lovász extension of the Jaccard loss (B, C), at errors `wrong` (B, C, P); negative errors count as 0.

    Cells are added in order of decreasing error; each has as weight the IoU that it costs: 1 / union for a
    missed cell, left / (union * (union - 1)) for a false positive.
    """
    wrong, order = wrong.masked_fill(~known, -torch.inf).sort(dim=2, descending=True, stable=True)
    missed = (wanted & known).gather(2, order).to(wrong.dtype)
    total = missed.sum(2, keepdim=True)
    left = total - missed.cumsum(2)
    union = total + (1 - missed).cumsum(2)
    too_many = torch.where(
        union > 1, left / (union * (union - 1)).clamp(min=1), 1
    )  # the first false positive of an empty set costs the whole IoU
    steps = torch.where(missed > 0, 1 / union, too_many)
    return (wrong.relu() * steps).sum(2)
