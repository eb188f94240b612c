"""How far a pupil is from what its teacher is sure of, on images without labels."""

from __future__ import annotations

import torch

from src.losses.distillation import cells
from src.models.output import exclusive_probabilities


def consistency(
    kind: str, pupil: torch.Tensor, teacher: torch.Tensor, threshold: float, seen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) losses and (B,) shares of what counted, of logits (B, C) or (B, C, H, W); `kind` is as in
    `distillation`, at temperature 1.

    What the teacher is less sure of than `threshold` costs nothing, and neither does what of the pupil's view
    is not `seen`, (B, 1) or (B, 1, H, W) bool: the mean is over all cells of a row, whether they count or not
    (Sohn et al. 2020, FixMatch). A row of classes is sure as a whole, each label on its own, maps by pixel.
    """
    costs = cells(kind, pupil, teacher, 1.0)
    counts = confident_cells(kind, teacher, threshold) & seen
    losses = torch.where(counts, costs, 0).flatten(1).mean(1)
    return losses, counts.float().flatten(1).mean(1)


def confident_cells(kind: str, teacher: torch.Tensor, threshold: float) -> torch.Tensor:
    """Bool, of the shape of `cells`: whether the likeliest answer, the background of maps among them, has at
    least this probability; always, of numbers."""
    logits = teacher.float()
    if kind == "mse":
        return torch.ones_like(logits, dtype=torch.bool)
    if kind == "bce":
        return logits.abs().sigmoid() >= threshold  # of yes or of no, whichever is likelier
    if kind == "exclusive":
        said = exclusive_probabilities(logits)
        ground = 1 - said.sum(1, keepdim=True)
        return torch.maximum(said.amax(1, keepdim=True), ground) >= threshold
    return logits.softmax(1).amax(1, keepdim=True) >= threshold
