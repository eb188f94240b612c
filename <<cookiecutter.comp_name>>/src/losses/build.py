"""Per-sample losses: (output, targets (B, C)) -> (B,). Reduced once, here, so that weights of any kind
combine."""

from __future__ import annotations

from collections.abc import Callable

import torch

from src.losses.classification import cross_entropy
from src.models.build import Output

Loss = Callable[[Output, torch.Tensor], torch.Tensor]


def create_loss(name: str, label_smoothing: float = 0.0) -> Loss:
    """The per-sample loss of that name; `label_smoothing` in [0, 1) moves targets towards uniform."""
    if name == "cross_entropy":
        return lambda output, targets: cross_entropy(output.logits, targets, label_smoothing)
    raise ValueError(f"no loss is called {name!r}")


def reduce(losses: torch.Tensor, weights: torch.Tensor, total_weight: float) -> torch.Tensor:
    """(B,) losses and weights to a scalar: the weighted sum over `total_weight`.

    `total_weight` is that of all rows of one optimiser step. With accumulation each batch is divided by the
    whole window's, so that a short last window, or a short last batch, weighs its rows no less than any
    other.
    """
    return (losses * weights).sum() / total_weight
