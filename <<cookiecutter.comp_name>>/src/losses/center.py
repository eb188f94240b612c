"""Centre loss: every row is drawn to the running centre of its class."""

from __future__ import annotations

import torch
from torch import nn

RATE = 0.5  # how far a centre moves towards its rows of a batch, alpha in the paper


class CenterLoss(nn.Module):
    """(B,) half the squared distance of embeddings (B, D) to the centres of their classes, `labels` (B,)
    int64; a negative one is unknown and costs nothing.

    Wen et al. 2016, A Discriminative Feature Learning Approach for Deep Face Recognition. Centres are moved
    by the paper's own rule and by no optimiser, whose rate is one for weights: they are state to be kept in
    checkpoints, and no parameters.
    """

    def __init__(self, n_classes: int, features: int):
        super().__init__()
        self.register_buffer("centers", torch.zeros(n_classes, features))

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known = labels >= 0
        apart = embedding - self.centers[labels.clamp(min=0)].to(embedding.dtype)  # (B, D)
        losses = torch.where(known, 0.5 * apart.square().sum(1), 0.0)
        if torch.is_grad_enabled():  # a look at rows that are not learned from must not move anything
            self.move(apart.detach(), labels, known)
        return losses

    def move(self, apart: torch.Tensor, labels: torch.Tensor, known: torch.Tensor) -> None:
        """Each centre by RATE times the sum of what its rows are apart, (B, D), over one more than they
        are."""
        good = known & apart.isfinite().all(1)  # one overflow in half precision would stay for ever
        labels = labels.clamp(min=0)
        apart = torch.where(good[:, None], apart, 0).to(self.centers.dtype)
        rows = apart.new_ones(len(self.centers)).index_add_(0, labels, good.to(apart.dtype))
        self.centers.index_add_(0, labels, RATE * apart / rows[labels][:, None])
