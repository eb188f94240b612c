"""Consistency loss between student and teacher on unlabelled images, with FixMatch's threshold."""

from __future__ import annotations

import torch

from src.losses.distillation import cells
from src.models.output import exclusive_probabilities


def consistency(
    kind: str, pupil: torch.Tensor, teacher: torch.Tensor, threshold: float, seen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Consistency losses (B,) and the share of confident cells (B,), from logits (B, C) or (B, C, H, W).

    `kind` is as in `distillation`, at temperature 1. A cell costs 0 if the teacher's confidence is below
    `threshold`, or if it is not `seen` in the student's view, (B, 1) or (B, 1, H, W) bool. The mean is over
    all cells of a row, masked or not (Sohn et al. 2020, FixMatch). A cell is a row for exclusive classes, a
    label for multilabel targets and a pixel for maps.
    """
    costs = cells(kind, pupil, teacher, 1.0)
    counts = confident_cells(kind, teacher, threshold) & seen
    losses = torch.where(counts, costs, 0).flatten(1).mean(1)
    return losses, counts.float().flatten(1).mean(1)


def confident_cells(kind: str, teacher: torch.Tensor, threshold: float) -> torch.Tensor:
    """Bool, shaped like `cells`: whether the most probable answer has at least probability `threshold`.

    For maps the background is one of the answers. For numbers it is always True.
    """
    logits = teacher.float()
    if kind == "mse":
        return torch.ones_like(logits, dtype=torch.bool)
    if kind == "bce":
        return logits.abs().sigmoid() >= threshold  # of yes or no, whichever is more probable
    if kind == "exclusive":
        said = exclusive_probabilities(logits)
        ground = 1 - said.sum(1, keepdim=True)
        return torch.maximum(said.amax(1, keepdim=True), ground) >= threshold
    return logits.softmax(1).amax(1, keepdim=True) >= threshold
