"""Necks: between pooled features (B, features) and the head."""

from __future__ import annotations

import torch
from torch import nn


class Projection(nn.Module):
    """(B, features) to an embedding of its own length: dropout, a linear layer, batch norm, as where ArcFace
    ends its network (Deng et al. 2019); without the norm where a `BNNeck` follows."""

    def __init__(self, features: int, embedding: int, drop_rate: float = 0.0, norm: bool = True):
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)
        self.linear = nn.Linear(features, embedding, bias=False)  # the norm has one
        self.norm = nn.BatchNorm1d(embedding) if norm else nn.Identity()
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(self.dropout(features)))


class Reduction(nn.Module):
    """(B, features) of a local part to (B, length): a linear layer, batch norm, ReLU (Sun et al. 2018)."""

    def __init__(self, features: int, length: int):
        super().__init__()
        self.linear = nn.Linear(features, length, bias=False)
        self.norm = nn.BatchNorm1d(length)
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(features)).relu()


class BNNeck(nn.Module):
    """(B, features): a batch norm that scales and does not shift, before a classifier without a bias.

    Luo et al. 2019, Bag of Tricks and A Strong Baseline for Deep Person Re-Identification: distances are
    learned before it, angles after it, so that the two losses stop pulling one vector two ways.
    """

    def __init__(self, features: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(features, affine=False)
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.norm(embedding) * self.weight
