"""Loss for mutually exclusive classes or identities: classification or margin loss, plus weighted
batch-hard triplet and center losses of the `metric` embedding."""

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

_SURE = 0.9  # rows with a lower maximum share (mixed, soft) are no triplet positives and have no centre


class ClassLoss(SampleLoss):
    """Loss of targets (B, C), class probabilities, or (B, 1), class indices.

    A row with a NaN is unknown: it costs 0 and is no triplet positive or negative. Class weights apply to a
    row in proportion to its class probabilities. The only state is that of the centres.
    """

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
        if self.center is not None:  # one centre per class, for the global embedding
            losses = losses + self.center_weight * self.center(views[0].metric, labels)
        if self.weights is not None:
            losses = losses * (shares @ self.weights.to(shares.dtype))
        return torch.where(known, losses, 0)

    def of_view(self, view: Output, shares: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Losses (B,) of one output: the loss of its logits, plus the weighted triplet loss."""
        losses = self.row(view.logits, shares)
        if not self.triplet_weight:
            return losses
        return losses + self.triplet_weight * batch_hard_triplet(view.metric, labels, self.triplet)


def _of_logits(settings: Losses, task: str, n_outputs: int, targets: np.ndarray | None) -> RowLoss:
    """The loss of logits and class probabilities. For a margin loss (ArcFace, CosFace, SphereFace,
    NormFace) logits are cosines times `margin_scale`."""
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
