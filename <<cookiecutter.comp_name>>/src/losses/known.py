"""Targets that are only partly known: a pseudo-labelled row may be sure of some labels, or pixels, and not of
others."""

from __future__ import annotations

from collections.abc import Callable

import torch


def over_known(
    cell: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], logits: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """(B,) mean of `cell(logits, targets)`, (B, C, ...), over the targets that are no NaN; 0 where none is
    known."""
    known = ~targets.isnan()
    return mean_known(cell(logits.float(), torch.where(known, targets, torch.zeros_like(targets))), known)


def mean_known(losses: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """(B,) mean of losses (B, ...) where `known`, of the same shape, is true; 0 where it is nowhere."""
    return (losses * known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)
