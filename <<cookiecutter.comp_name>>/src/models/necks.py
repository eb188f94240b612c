"""Necks: layers between pooled features (B, features) and the head."""

from __future__ import annotations

import torch
from torch import nn


class Projection(nn.Module):
    """Embedding projection, (B, features) to (B, embedding): dropout, linear layer, batch norm.

    This is how ArcFace ends its network (Deng et al. 2019). Without the batch norm if a `BNNeck` follows.
    """

    def __init__(self, features: int, embedding: int, drop_rate: float = 0.0, norm: bool = True):
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)
        self.linear = nn.Linear(features, embedding, bias=False)  # the batch norm has one
        self.norm = nn.BatchNorm1d(embedding) if norm else nn.Identity()
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(self.dropout(features)))


class Reduction(nn.Module):
    """Part reduction, (B, features) to (B, length): linear layer, batch norm, ReLU (Sun et al. 2018, PCB)."""

    def __init__(self, features: int, length: int):
        super().__init__()
        self.linear = nn.Linear(features, length, bias=False)
        self.norm = nn.BatchNorm1d(length)
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(features)).relu()


class BNNeck(nn.Module):
    """BNNeck, (B, features): batch norm with a scale and without a shift, before a classifier without a bias.

    Luo et al. 2019, Bag of Tricks and A Strong Baseline for Deep Person Re-Identification: metric losses use
    the embedding before it and classification losses the one after it, so that the two do not conflict.
    """

    def __init__(self, features: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(features, affine=False)
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.norm(embedding) * self.weight
