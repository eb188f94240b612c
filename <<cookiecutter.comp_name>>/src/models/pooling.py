"""Global pooling: a feature map (B, C, H, W) to a vector (B, C), or (B, 2 C) for dual pooling."""

from __future__ import annotations

import math

import torch
from torch import nn


class AveragePooling(nn.Module):
    """Global average pooling (GAP), (B, C, H, W) to (B, C)."""

    times = 1  # length of the vector, in multiples of C

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean((2, 3))


class MaxPooling(nn.Module):
    """Global max pooling, (B, C, H, W) to (B, C)."""

    times = 1

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.amax((2, 3))


class DualPooling(nn.Module):
    """Dual pooling (average and max concatenated, timm's "catavgmax"), (B, C, H, W) to (B, 2 C).

    The average tells how much of a feature there is, the maximum whether there is any.
    """

    times = 2

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)


class GeM(nn.Module):
    """GeM (generalised-mean pooling), (B, C, H, W) to (B, C): (mean of x^p)^(1/p) with one learned p.

    p = 1 is average pooling, infinity max pooling. Values below `least` are clamped to `least`, including the
    negative ones of transformers. Radenovic, Tolias, Chum 2018, Fine-tuning CNN Image Retrieval with No Human
    Annotation, where p starts at 3. It runs in float32 under autocast and with logarithms: 50 cubed already
    overflows float16.
    """

    times = 1

    def __init__(self, p: float = 3.0, least: float = 1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))
        self.least = least

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            maps = maps if maps.dtype == torch.float64 else maps.float()
            p = self.p.to(maps.dtype).clamp(min=1)
            logs = p * maps.clamp(min=self.least).log().flatten(2)  # (B, C, H * W)
            return ((logs.logsumexp(2) - math.log(logs.shape[2])) / p).exp()


POOLINGS = {"avg": AveragePooling, "max": MaxPooling, "dual": DualPooling, "gem": GeM}
