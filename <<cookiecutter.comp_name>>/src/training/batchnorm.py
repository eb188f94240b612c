"""Batch-norm statistics of weights that no training step has seen, such as a mean of weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def update_batch_norms(model: nn.Module, images: Iterable[torch.Tensor], frozen: set[str]) -> None:
    """Replace the running statistics of the model's batch norms by the mean over these batches, all other
    layers in evaluation mode; the layers in `frozen` keep theirs.

    Izmailov et al. 2018, Averaging Weights Leads to Wider Optima. torch's `update_bn` would drop units on the
    way, and measure frozen layers too.
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
        layer.momentum = None  # a plain mean over the batches
        layer.train()
    for batch in images:
        model(batch)
    for name, layer in norms.items():
        layer.momentum = momentum[name]
        layer.eval()
