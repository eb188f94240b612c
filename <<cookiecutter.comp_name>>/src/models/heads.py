"""Heads: an embedding (B, features) to logits (B, outputs), without an activation at the end."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import nn


class Head(nn.Module):
    """Dropout before `logits`. With `samples`, logits are the mean over as many dropout masks in training
    (Inoue 2019, Multi-Sample Dropout for Accelerated Training and Better Generalization)."""

    def __init__(self, drop_rate: float = 0.0, samples: int | None = None):
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)
        self.samples = samples

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        if self.samples is None or not self.training:
            return self.logits(self.dropout(embedding))
        return torch.stack([self.logits(self.dropout(embedding)) for _ in range(self.samples)]).mean(0)

    @abstractmethod
    def logits(self, embedding: torch.Tensor) -> torch.Tensor:
        """(B, features) to (B, outputs)."""


class LinearHead(Head):
    """Dropout and one linear layer, variance-scaled at the start (Glorot and Bengio 2010), zero bias or
    none."""

    def __init__(
        self,
        features: int,
        outputs: int,
        drop_rate: float = 0.0,
        samples: int | None = None,
        bias: bool = True,
    ):
        super().__init__(drop_rate, samples)
        self.linear = nn.Linear(features, outputs, bias=bias)
        nn.init.xavier_uniform_(self.linear.weight)
        if bias:
            nn.init.zeros_(self.linear.bias)

    def logits(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.linear(embedding)


class CosineHead(Head):
    """Dropout, then cosines in [-1, 1] between the embedding and one direction an output, times `scale`, or a
    softmax could never be sure (Wang et al. 2017, NormFace). In float32 under autocast too: bfloat16 has two
    digits, and a margin lives in the third.

    With `subcenters` an output has as many directions, and its cosine is that of the nearest: an identity
    that looks two ways, or one with wrong images among its own, has room for both (Deng et al. 2020,
    Sub-center ArcFace). Directions of one output lie side by side in the weight.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        drop_rate: float = 0.0,
        samples: int | None = None,
        subcenters: int | None = None,
        scale: float | None = None,
    ):
        super().__init__(drop_rate, samples)
        self.scale = 1.0 if scale is None else scale
        self.subcenters = subcenters or 1
        self.weight = nn.Parameter(torch.empty(outputs * self.subcenters, features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            return super().forward(embedding if embedding.dtype == torch.float64 else embedding.float())

    def logits(self, embedding: torch.Tensor) -> torch.Tensor:
        directions = F.normalize(self.weight.to(embedding.dtype))  # (outputs subcenters, features)
        cosines = F.linear(F.normalize(embedding), directions)
        if self.subcenters > 1:
            cosines = cosines.unflatten(1, (-1, self.subcenters)).amax(2)  # (B, outputs)
        # rounding goes beyond 1 by a hair, where an angle is no number
        return self.scale * cosines.clamp(-1, 1)
