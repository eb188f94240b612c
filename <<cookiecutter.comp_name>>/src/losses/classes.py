"""The loss where a row has one class, or shares of several: of its logits, and by weight the batch-hard
triplet and the centre loss of its `metric` embedding beside it."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from src.config import MARGINS, Losses
from src.losses import classification
from src.losses.balance import class_counts, weights_of_classes
from src.losses.base import RowLoss, SampleLoss, mean_of_views
from src.losses.center import CenterLoss
from src.losses.margins import create_widen, margin_scale, margin_softmax
from src.losses.masked import class_shares
from src.losses.triplet import batch_hard_triplet
from src.models.output import Output

_SURE = 0.9  # a row that is less of one class, such as a mixed one, is nobody's positive and has no centre


class ClassLoss(SampleLoss):
    """Targets (B, C) are shares of classes, or (B, 1) a class's number; a row with a NaN is unknown, costs
    nothing and is nobody's like. With class weights a row counts what its classes do, by their shares. Its
    state is that of the centres."""

    def __init__(
        self,
        settings: Losses,
        task: str,
        outputs: list[str],
        targets: np.ndarray | None = None,
        features: int = 0,
    ):
        super().__init__()
        self.n_outputs, self.triplet = len(outputs), settings.margin.triplet
        self.row = _of_logits(settings, task, len(outputs), targets)
        self.triplet_weight, self.center_weight = settings.triplet_weight(task), settings.center_weight
        self.center = CenterLoss(len(outputs), features) if settings.center_weight else None
        weights = None
        if settings.class_weights is not None:
            weights = weights_of_classes(settings, targets, outputs).float()
        self.register_buffer("weights", weights, persistent=False)

    def of_views(self, views: list[Output], targets: torch.Tensor) -> torch.Tensor:
        shares, known = class_shares(targets, self.n_outputs)
        shares = shares.to(views[0].logits.dtype)
        most, labels = shares.max(1)
        labels = torch.where(known & (most >= _SURE), labels, -1)
        losses = mean_of_views([self.of_view(view, shares, labels) for view in views])
        if self.center is not None:  # one embedding a row has one centre
            losses = losses + self.center_weight * self.center(views[0].metric, labels)
        if self.weights is not None:
            losses = losses * (shares @ self.weights.to(shares.dtype))
        return torch.where(known, losses, 0)

    def of_view(self, view: Output, shares: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B,) the loss of the logits and the triplet beside it."""
        losses = self.row(view.logits, shares)
        if not self.triplet_weight:
            return losses
        return losses + self.triplet_weight * batch_hard_triplet(view.metric, labels, self.triplet)


def _of_logits(settings: Losses, task: str, n_outputs: int, targets: np.ndarray | None) -> RowLoss:
    """The loss of logits and shares. Of a margin loss logits are cosines times `margin_scale`."""
    name = settings.name(task)
    if name in MARGINS:
        scale = margin_scale(settings.margin, n_outputs)
        counts = None if targets is None else class_counts(targets, n_outputs)
        widen = create_widen(name, settings.margin, n_outputs, counts)
        return lambda logits, shares: margin_softmax(logits / scale, shares, scale, widen)
    smoothing, symmetric = settings.label_smoothing, settings.symmetric.model_dump()
    return {
        "cross_entropy": partial(classification.cross_entropy, label_smoothing=smoothing),
        "focal": partial(classification.softmax_focal, gamma=settings.focal.gamma),
        "hinge": classification.multiclass_hinge,
        "symmetric_cross_entropy": partial(classification.symmetric_cross_entropy, **symmetric),
        "generalized_cross_entropy": partial(
            classification.generalized_cross_entropy, q=settings.generalized_q
        ),
    }[name]
