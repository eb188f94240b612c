"""Heads: an embedding (B, features) to logits (B, outputs), without an activation at the end."""

from __future__ import annotations

import torch
from torch import nn


class LinearHead(nn.Module):
    """Dropout and one linear layer, variance-scaled at the start (Glorot and Bengio 2010), zero bias."""

    def __init__(self, features: int, outputs: int, drop_rate: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)
        self.linear = nn.Linear(features, outputs)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.linear(self.dropout(embedding))
