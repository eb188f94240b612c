"""Creates the loss of a run: the one named by `train.loss`, plus auxiliary losses with their weights."""

from __future__ import annotations

from functools import partial

import numpy as np

from src.config import EXCLUSIVE, Losses
from src.losses import labels, regression, segmentation
from src.losses.balance import weights_of_labels
from src.losses.base import LogitLoss, RowLoss, SampleLoss
from src.losses.classes import ClassLoss
from src.losses.fbeta import soft_fbeta
from src.losses.lovasz import lovasz_hinge, lovasz_softmax
from src.losses.masked import masked_mean_loss


def create_loss(
    task: str, settings: Losses, outputs: list[str], targets: np.ndarray | None = None, features: int = 0
) -> SampleLoss:
    """Create the loss (output, targets) -> (B,) of a task with outputs of these names.

    Its targets are as from `Task.encode`, or soft; NaN targets are unknown and left out. `targets` (N, C) are
    the fold's own training targets, from which class weights and class-dependent margins are computed.
    `features` is the length of the network's embedding, needed by the center loss. Raises `UserError` for the
    weight of a class that does not exist.
    """
    if task in ("multiclass", "retrieval"):
        return ClassLoss(settings, task, outputs, targets, features)
    name = settings.name(task)
    losses = {
        "binary": _of_labels,
        "multilabel": _of_labels,
        "segmentation": _of_masks,
        "regression": _of_numbers,
    }[task](settings, outputs, targets)
    terms = [(1.0, losses[name])]
    if settings.lovasz_weight:
        terms.append((settings.lovasz_weight, lovasz_softmax if name in EXCLUSIVE else lovasz_hinge))
    return LogitLoss(terms)


def _of_labels(settings: Losses, outputs: list[str], targets: np.ndarray | None) -> dict[str, RowLoss]:
    """Losses for binary and multilabel targets, by name."""
    weights = None
    if settings.class_weights is not None:
        weights = weights_of_labels(settings, targets, outputs).float()
    cells = {
        "bce": partial(labels.binary_cross_entropy, label_smoothing=settings.label_smoothing),
        "focal": partial(labels.sigmoid_focal, **settings.focal.model_dump()),
        "asymmetric": partial(labels.asymmetric, **settings.asymmetric.model_dump()),
        "hinge": labels.binary_hinge,
    }
    cells = {name: labels.weighted(cell, weights) for name, cell in cells.items()}
    rows = {"fbeta": partial(soft_fbeta, beta=settings.fbeta), "lovasz": lovasz_hinge}
    return rows | _over_known(cells)


def _of_masks(settings: Losses, outputs: list[str], targets: np.ndarray | None) -> dict[str, RowLoss]:
    """Losses for segmentation masks, by name."""
    weight, focal = settings.dice_weight, partial(labels.sigmoid_focal, **settings.focal.model_dump())
    return {
        "bce_dice": partial(segmentation.bce_dice, dice_weight=weight),
        "ce_dice": partial(segmentation.ce_dice, dice_weight=weight),
        "focal_dice": partial(segmentation.bce_dice, dice_weight=weight, cell=focal),
        "focal": partial(masked_mean_loss, focal),
        "fbeta": partial(soft_fbeta, beta=settings.fbeta),
        "lovasz": lovasz_hinge,
        "lovasz_softmax": lovasz_softmax,
    }


def _of_numbers(settings: Losses, outputs: list[str], targets: np.ndarray | None) -> dict[str, RowLoss]:
    """Losses for regression targets, by name."""
    huber = partial(regression.huber, delta=settings.huber_delta)
    return _over_known({"mse": regression.squared_error, "mae": regression.absolute_error, "huber": huber})


def _over_known(cells: dict) -> dict[str, RowLoss]:
    """Per-cell losses averaged over the known targets of each row."""
    return {name: partial(masked_mean_loss, cell) for name, cell in cells.items()}
