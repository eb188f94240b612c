"""The loss of a run: the one that its settings name, and what stands beside it by weight."""

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
    """(output, targets) -> (B,) for a task with outputs of these names. Targets are as `Task.encode` gives
    them, or soft; those that are NaN are unknown and left out.

    `targets` (N, C) are those of the fold's own training rows, by which class weights and margins by class
    are reckoned. `features` is the length of the network's embedding, which a centre loss must know. Raises
    `UserError` for the weight of a class that does not exist.
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
    huber = partial(regression.huber, delta=settings.huber_delta)
    return _over_known({"mse": regression.squared_error, "mae": regression.absolute_error, "huber": huber})


def _over_known(cells: dict) -> dict[str, RowLoss]:
    return {name: partial(masked_mean_loss, cell) for name, cell in cells.items()}
