"""Soft F-beta: the metric itself, of probabilities in place of decisions."""

from __future__ import annotations

import torch

from src.losses.masked import cells_of_sets, masked_mean


def soft_fbeta(logits: torch.Tensor, targets: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    """(B,) 1 - F-beta of logits (B, C) over the labels of each row, or of (B, C, H, W) over the pixels of
    each image and class, the mean over its classes. What is NaN is unknown and left out.

    On masks it is the Tversky loss with weights that add to 1 (Salehi, Erdogmus, Gholipour 2017, Tversky Loss
    Function for Image Segmentation). The macro score is over all rows of a class and no batch knows it: this
    is the score row by row. Intersections are the smaller of the two, so that a soft target is best met by
    itself (Wang et al. 2023, Dice Semimetric Losses). One cell is added to either side, so that a row without
    labels asks for an empty answer.
    """
    logits, targets = cells_of_sets(logits), cells_of_sets(targets)  # (B, sets, cells)
    known = ~targets.isnan()
    wanted = torch.where(known, targets, 0)
    said = torch.where(known, logits.sigmoid(), 0)
    both = torch.minimum(said, wanted).sum(2)  # (B, sets)
    missed, too_much = (wanted - said).relu().sum(2), (said - wanted).relu().sum(2)
    apart = beta**2 * missed + too_much
    return masked_mean(apart / ((1 + beta**2) * both + apart + 1), known.any(2))
