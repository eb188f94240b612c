"""Heads: an embedding (B, features) to logits (B, outputs), without an activation at the end; and the
projection that may come before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


class CosineHead(nn.Module):
    """Dropout, then cosines in [-1, 1] between the embedding and one direction an output, times `scale`, or a
    softmax could never be sure (Wang et al. 2017, NormFace). In float32 under autocast too: bfloat16 has two
    digits, and a margin lives in the third."""

    def __init__(self, features: int, outputs: int, drop_rate: float = 0.0, scale: float | None = None):
        super().__init__()
        self.scale = 1.0 if scale is None else scale
        self.dropout = nn.Dropout(drop_rate)
        self.weight = nn.Parameter(torch.empty(outputs, features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            directions = F.normalize(self.weight.float())  # (outputs, features)
            cosines = F.linear(F.normalize(self.dropout(embedding.float())), directions)
        # rounding goes beyond 1 by a hair, where an angle is no number
        return self.scale * cosines.clamp(-1, 1)


class Projection(nn.Module):
    """(B, features) to an embedding of its own length: dropout, a linear layer, batch norm, as where ArcFace
    ends its network (Deng et al. 2019)."""

    def __init__(self, features: int, embedding: int, drop_rate: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)
        self.linear = nn.Linear(features, embedding, bias=False)  # the norm has one
        self.norm = nn.BatchNorm1d(embedding)
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(self.dropout(features)))


HEADS = {"linear": LinearHead, "cosine": CosineHead}


def create_head(
    name: str, features: int, outputs: int, drop_rate: float = 0.0, scale: float | None = None
) -> nn.Module:
    """The head of that name; `scale` is a cosine head's."""
    options = {"scale": scale} if name == "cosine" else {}
    return HEADS[name](features, outputs, drop_rate, **options)
