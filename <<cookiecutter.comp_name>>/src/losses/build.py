"""Per-sample losses: (output, targets (B, C)) -> (B,). Reduced once, here, so that weights of any kind
combine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from src.losses import classification, regression
from src.losses.known import over_known
from src.models.output import Output

Loss = Callable[[Output, torch.Tensor], torch.Tensor]


def create_loss(name: str, label_smoothing: float = 0.0, huber_delta: float = 1.0) -> Loss:
    """The per-sample loss of that name.

    `label_smoothing` in [0, 1) moves class targets towards uniform; targets that are NaN are left out, except
    by cross-entropy, whose classes are known together or not at all.
    """
    if name == "cross_entropy":
        return lambda output, targets: classification.cross_entropy(output.logits, targets, label_smoothing)
    cells = {
        "bce": partial(classification.binary_cross_entropy, label_smoothing=label_smoothing),
        "mse": regression.squared_error,
        "mae": regression.absolute_error,
        "huber": partial(regression.huber, delta=huber_delta),
    }
    if name not in cells:
        raise ValueError(f"no loss is called {name!r}; there are cross_entropy, {', '.join(cells)}")
    return lambda output, targets: over_known(cells[name], output.logits, targets)


def reduce(losses: torch.Tensor, weights: torch.Tensor, total_weight: float) -> torch.Tensor:
    """(B,) losses and weights to a scalar: the weighted sum over `total_weight`.

    `total_weight` is that of all rows of one optimiser step. With accumulation each batch is divided by the
    whole window's, so that a short last window, or a short last batch, weighs its rows no less than any
    other.
    """
    return (losses * weights).sum() / total_weight
