"""Reduction of per-sample losses to a scalar: the only place where rows are weighted against each other."""

from __future__ import annotations

import torch


def reduce(
    losses: torch.Tensor, weights: torch.Tensor, total_weight: float, top_share: float | None = None
) -> torch.Tensor:
    """Weighted mean of losses (B,) over the weight of the optimiser step; with `top_share`, OHEM (online hard
    example mining), over the hardest share of the batch.

    `total_weight` is the weight of all rows of one optimiser step. With gradient accumulation every batch is
    divided by the weight of the whole accumulation window, so rows of a short last window or batch count as
    much as others.
    """
    if top_share is None:
        return (losses * weights).sum() / total_weight
    return (losses * ohem_weights(losses, weights, top_share)).sum() / (top_share * total_weight)


@torch.no_grad()
def ohem_weights(losses: torch.Tensor, weights: torch.Tensor, share: float) -> torch.Tensor:
    """OHEM weights (B,): those of the rows with the highest losses, up to `share` of the batch's weight.

    All other rows get 0. The last selected row counts in part, so every batch contributes exactly its share.
    Shrivastava, Gupta, Girshick 2016, Training Region-based Object Detectors with Online Hard Example Mining;
    Fan, Lyu, Ying, Hu 2017, Learning with Average Top-k Loss.
    """
    order = losses.argsort(descending=True, stable=True)
    before = weights[order].cumsum(0) - weights[order]
    room = (share * weights.sum() - before).clamp(min=0)
    return torch.zeros_like(weights).scatter(0, order, torch.minimum(weights[order], room))
