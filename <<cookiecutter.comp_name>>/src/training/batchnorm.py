"""Recompute batch-norm statistics (`update_bn`) of weights that were never trained: SWA averages, soups."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def update_batch_norms(model: nn.Module, images: Iterable[torch.Tensor], frozen: set[str]) -> None:
    """Replace the running statistics of the batch norms by the mean over `images`, except in `frozen` layers.

    All other layers are in evaluation mode (Izmailov et al. 2018, Averaging Weights Leads to Wider Optima).
    PyTorch's `update_bn` is not used: it applies dropout during the pass and recomputes frozen layers too.
    """
    norms = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and name not in frozen
    }
    model.eval()
    if not norms:
        return
    momentum = {name: layer.momentum for name, layer in norms.items()}
    for layer in norms.values():
        layer.reset_running_stats()
        layer.momentum = None  # None: cumulative average over the batches
        layer.train()
    for batch in images:
        model(batch)
    for name, layer in norms.items():
        layer.momentum = momentum[name]
        layer.eval()
