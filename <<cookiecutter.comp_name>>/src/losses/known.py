"""Targets that are only partly known: a pseudo-labelled row may be sure of some labels and not of others."""

from __future__ import annotations

from collections.abc import Callable

import torch


def over_known(
    cell: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], logits: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """(B,) mean of `cell(logits, targets)`, (B, C), over the targets that are no NaN; 0 where none is
    known."""
    known = ~targets.isnan()
    losses = cell(logits.float(), torch.where(known, targets, torch.zeros_like(targets)))  # (B, C)
    return (losses * known).sum(1) / known.sum(1).clamp(min=1)
