"""Soft F-beta loss: 1 - F-beta, computed from probabilities."""

from __future__ import annotations

import torch

from src.losses.masked import cells_of_sets, masked_mean


def soft_fbeta(logits: torch.Tensor, targets: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    """Soft F-beta loss (B,): 1 - F-beta of probabilities and targets, per row or per mask.

    It is computed over the labels of each row for (B, C), and over the pixels of each image and class for (B,
    C, H, W).

    For masks it is the mean over classes and equals a Tversky loss with weights that sum to 1 (Salehi,
    Erdogmus, Gholipour 2017, Tversky Loss Function for Image Segmentation). NaN targets are unknown and left
    out. The macro F-beta needs all rows of a class, which no batch has, so the score is computed per row. The
    intersection is the minimum of probability and target, so that a soft target is its own optimum (Wang et
    al. 2023, Dice Semimetric Losses). One cell is added to numerator and denominator, so that a row without
    labels prefers an empty prediction.
    """
    logits, targets = cells_of_sets(logits), cells_of_sets(targets)  # (B, sets, cells)
    known = ~targets.isnan()
    wanted = torch.where(known, targets, 0)
    said = torch.where(known, logits.sigmoid(), 0)
    both = torch.minimum(said, wanted).sum(2)  # (B, sets)
    missed, too_much = (wanted - said).relu().sum(2), (said - wanted).relu().sum(2)
    apart = beta**2 * missed + too_much
    return masked_mean(apart / ((1 + beta**2) * both + apart + 1), known.any(2))
