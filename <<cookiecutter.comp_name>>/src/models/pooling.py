"""Pooling: a map (B, C, H, W) to a vector (B, C), or (B, 2 C) of dual pooling."""

from __future__ import annotations

import math

import torch
from torch import nn


class AveragePooling(nn.Module):
    """(B, C, H, W) to the mean over the places, (B, C)."""

    times = 1  # lengths of the vector, in channels

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean((2, 3))


class MaxPooling(nn.Module):
    """(B, C, H, W) to the largest of the places, (B, C)."""

    times = 1

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.amax((2, 3))


class DualPooling(nn.Module):
    """(B, C, H, W) to mean and maximum side by side, (B, 2 C): how much of it there is, and whether there is
    any."""

    times = 2

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)


class GeM(nn.Module):
    """(B, C, H, W) to the generalised mean (mean of x^p)^(1/p) over the places, (B, C), with one learned p:
    1 is the mean, infinity the maximum. Values below `least` count as `least`, also those of a transformer.

    Radenovic, Tolias, Chum 2018, Fine-tuning CNN Image Retrieval with No Human Annotation, where p starts at
    3. In float32 under autocast, and by logarithms: 50 to the third power is beyond float16 already.
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
            logs = p * maps.clamp(min=self.least).log().flatten(2)  # (B, C, H W)
            return ((logs.logsumexp(2) - math.log(logs.shape[2])) / p).exp()


POOLINGS = {"avg": AveragePooling, "max": MaxPooling, "dual": DualPooling, "gem": GeM}
