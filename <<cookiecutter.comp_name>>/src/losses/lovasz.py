"""Losses that follow intersection over union, convex in how wrong each cell is (Berman, Triki, Blaschko 2018,
The Lovász-Softmax Loss). Logits and targets (B, C), the labels of a row, or (B, C, H, W) masks, to (B,).

The index is of sets, so a soft target counts as the side of one half that it is on, a pixel as the class that
has most of it; what is NaN is unknown and left out.
"""

from __future__ import annotations

import torch

from src.losses.masked import cells_of_sets, masked_mean
from src.models.output import with_background


def lovasz_hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,) of classes on their own: the labels of a row as one set, or the pixels of each class and image,
    the mean over its classes. A cell is wrong by what it lacks of being 1 on the right side of 0."""
    logits, targets = cells_of_sets(logits), cells_of_sets(targets)
    known, wanted = ~targets.isnan(), targets >= 0.5
    wrong = 1 - torch.where(wanted, logits, -logits)
    return masked_mean(extension(wrong, wanted, known), known.any(2))


def lovasz_softmax(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,) of classes that exclude each other, the background being one: the mean over the classes that an
    image shows. A pixel is wrong by what its class's probability is away from 0 or 1."""
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
    """(B, C) the Lovász extension of the Jaccard loss at how wrong cells are, (B, C, P), below 0 as 0.

    From the worst cell on, each adds what it takes from the intersection over union of those `wanted`: one
    that was missed 1 / union, one too many left / (union * (union - 1)).
    """
    wrong, order = wrong.masked_fill(~known, -torch.inf).sort(dim=2, descending=True, stable=True)
    missed = (wanted & known).gather(2, order).to(wrong.dtype)
    total = missed.sum(2, keepdim=True)
    left = total - missed.cumsum(2)
    union = total + (1 - missed).cumsum(2)
    too_many = torch.where(
        union > 1, left / (union * (union - 1)).clamp(min=1), 1
    )  # the first of none is all
    steps = torch.where(missed > 0, 1 / union, too_many)
    return (wrong.relu() * steps).sum(2)
