"""From one value a row to one number: the only place where rows are weighed against each other."""

from __future__ import annotations

import torch


def reduce(
    losses: torch.Tensor, weights: torch.Tensor, total_weight: float, top_share: float | None = None
) -> torch.Tensor:
    """(B,) losses and weights to a scalar: the weighted sum over `total_weight`; with `top_share` of the
    hardest rows of the batch alone, over that share of it.

    `total_weight` is that of all rows of one optimiser step. With accumulation each batch is divided by the
    whole window's, so that a short last window, or a short last batch, weighs its rows no less than any
    other.
    """
    if top_share is None:
        return (losses * weights).sum() / total_weight
    return (losses * ohem_weights(losses, weights, top_share)).sum() / (top_share * total_weight)


@torch.no_grad()
def ohem_weights(losses: torch.Tensor, weights: torch.Tensor, share: float) -> torch.Tensor:
    """(B,) what is left of the weights when the rows of the highest losses are taken until they make up
    `share` of the batch's weight; the last of them in part, so that every batch gives exactly its share.

    Shrivastava, Gupta, Girshick 2016, Training Region-based Object Detectors with Online Hard Example Mining;
    Fan, Lyu, Ying, Hu 2017, Learning with Average Top-k Loss.
    """
    order = losses.argsort(descending=True, stable=True)
    before = weights[order].cumsum(0) - weights[order]
    room = (share * weights.sum() - before).clamp(min=0)
    return torch.zeros_like(weights).scatter(0, order, torch.minimum(weights[order], room))
