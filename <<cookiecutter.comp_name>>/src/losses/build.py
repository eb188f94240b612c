"""Per-sample losses: (output, targets) -> (B,). Reduced once, here, so that weights of any kind combine."""

from __future__ import annotations

from functools import partial

import torch

from src.config import Train
from src.losses import classification, regression, segmentation
from src.losses.embedding import create_arcface
from src.losses.known import over_known
from src.models.output import Loss


def create_loss(name: str, settings: Train, n_outputs: int) -> Loss:
    """The per-sample loss of that name, of targets (B, C), or (B, C, H, W) for masks.

    `label_smoothing` moves class targets towards uniform, but not those of margins and masks; targets that
    are NaN are left out, except by cross-entropy, whose classes are known together or not at all.
    """
    if name in ("arcface", "arcface_triplet"):
        return create_arcface(settings.margin, n_outputs, triplet=name == "arcface_triplet")
    smoothing = settings.label_smoothing
    rows = {
        "cross_entropy": partial(classification.cross_entropy, label_smoothing=smoothing),
        "bce_dice": partial(segmentation.bce_dice, dice_weight=settings.dice_weight),
        "ce_dice": partial(segmentation.ce_dice, dice_weight=settings.dice_weight),
    }
    cells = {
        "bce": partial(classification.binary_cross_entropy, label_smoothing=smoothing),
        "mse": regression.squared_error,
        "mae": regression.absolute_error,
        "huber": partial(regression.huber, delta=settings.huber_delta),
    }
    losses = rows | {key: partial(over_known, cell) for key, cell in cells.items()}
    if name not in losses:
        names = ", ".join([*losses, "arcface", "arcface_triplet"])
        raise ValueError(f"no loss is called {name!r}; there are {names}")
    return lambda output, targets: losses[name](output.logits, targets)


def reduce(losses: torch.Tensor, weights: torch.Tensor, total_weight: float) -> torch.Tensor:
    """(B,) losses and weights to a scalar: the weighted sum over `total_weight`.

    `total_weight` is that of all rows of one optimiser step. With accumulation each batch is divided by the
    whole window's, so that a short last window, or a short last batch, weighs its rows no less than any
    other.
    """
    return (losses * weights).sum() / total_weight
