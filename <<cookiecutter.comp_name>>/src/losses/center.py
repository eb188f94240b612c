"""Center loss: pulls the embedding of every row towards the running centre of its class."""

from __future__ import annotations

import torch
from torch import nn

RATE = 0.5  # update rate of the centres, alpha in the paper


class CenterLoss(nn.Module):
    """Center loss (B,): half the squared distance of embeddings (B, D) to the centres of their classes.

    `labels` (B,) int64 are class indices; a negative one is unknown and costs 0. Wen et al. 2016, A
    Discriminative Feature Learning Approach for Deep Face Recognition. Centres follow the paper's update
    rule, not the optimiser, whose learning rate suits weights: they are buffers, saved in checkpoints, not
    parameters.
    """

    def __init__(self, n_classes: int, features: int):
        super().__init__()
        self.register_buffer("centers", torch.zeros(n_classes, features))

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known = labels >= 0
        apart = embedding - self.centers[labels.clamp(min=0)].to(embedding.dtype)  # (B, D)
        losses = torch.where(known, 0.5 * apart.square().sum(1), 0.0)
        if torch.is_grad_enabled():  # evaluation must not move the centres
            self.move(apart.detach(), labels, known)
        return losses

    def move(self, apart: torch.Tensor, labels: torch.Tensor, known: torch.Tensor) -> None:
        """Move each centre by RATE times the sum of its rows' differences (B, D) over 1 + their number."""
        good = known & apart.isfinite().all(1)  # a half-precision overflow would stay for ever
        labels = labels.clamp(min=0)
        apart = torch.where(good[:, None], apart, 0).to(self.centers.dtype)
        rows = apart.new_ones(len(self.centers)).index_add_(0, labels, good.to(apart.dtype))
        self.centers.index_add_(0, labels, RATE * apart / rows[labels][:, None])
