"""Classification heads: an embedding (B, features) to logits (B, outputs), without a final activation."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import nn


class Head(nn.Module):
    """Base class of heads: dropout, then `logits`; optionally multi-sample dropout.

    With `samples`, training logits are the mean over that many dropout masks (Inoue 2019, Multi-Sample
    Dropout for Accelerated Training and Better Generalization).
    """

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
    """Linear head: dropout and a linear layer, Xavier initialisation (Glorot, Bengio 2010), optional bias."""

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
    """Cosine head for margin losses (ArcFace, CosFace): `scale` times the cosine to each class vector.

    Without the scale a softmax could never be confident (Wang et al. 2017, NormFace). It runs in float32 even
    under autocast: bfloat16 has two significant digits, too few for a margin. With `subcenters` an output has
    that many class vectors and uses the largest cosine, for identities with several appearances or with
    mislabelled images (Deng et al. 2020, Sub-center ArcFace). The class vectors of an output are adjacent
    rows of the weight.
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
        directions = F.normalize(self.weight.to(embedding.dtype))  # (outputs * subcenters, features)
        cosines = F.linear(F.normalize(embedding), directions)
        if self.subcenters > 1:
            cosines = cosines.unflatten(1, (-1, self.subcenters)).amax(2)  # (B, outputs)
        # rounding may exceed 1 slightly, where the angle is NaN
        return self.scale * cosines.clamp(-1, 1)
