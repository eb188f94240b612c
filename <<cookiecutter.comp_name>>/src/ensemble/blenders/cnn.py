"""Small monotone 1-D CNN over the (member x output) grid: members are the channels, the kernel spans
neighbouring outputs.

It is for outputs whose neighbours are related: ordered grades, labels that occur together. An output may only
rise with the members' predictions of that output, and the influence of its neighbours is at most as large. On
noise, predictions of other classes contain as much information about a fold's labels as those of the class
itself, with the opposite sign (docs/decisions.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from src.ensemble.blenders.base import LevelData
from src.ensemble.blenders.linear import Linear
from src.ensemble.blenders.networks import BlenderNetwork, train_network

_WIDTH = 3  # kernel size in outputs


class CNN(BlenderNetwork):
    """Monotone CNN blender: adds tanh units over a window of neighbouring outputs to each output, with shared
    weights."""

    def __init__(self, start: Linear, members: int, outputs: int):
        super().__init__(start, members, outputs)
        self.bend_in = torch.nn.Parameter(torch.zeros(self.hidden, members, _WIDTH))
        self.bend_in.data[:, :, _WIDTH // 2] = torch.rand(self.hidden, members) * 2
        self.bend_shift = torch.nn.Parameter(torch.randn(self.hidden))
        self.bend_out = torch.nn.Parameter(torch.zeros(self.hidden))

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        """Non-linear part: (N, M, C) to (N, C)."""
        inner = F.conv1d(x, self.bend_in / self.members, self.bend_shift, padding=_WIDTH // 2)
        inner = torch.tanh(inner)  # (N, H, C)
        return torch.einsum("nhc,h->nc", inner, self.bend_out)

    def project(self) -> None:
        """Project the weights to the monotone set: weights of an output's own predictions are at least 0, and
        the sum of its neighbours' absolute weights is at most as large."""
        own = self.bend_in[:, :, _WIDTH // 2]  # (H, M)
        for weight in (self.bend_out, own):
            weight.clamp_(min=0)
        others = self.bend_in.abs().sum(2) - own
        share = torch.where(others > own, own / others.clamp_min(1e-12), torch.ones_like(own))
        own = own.clone()
        self.bend_in.mul_(share[:, :, None])
        self.bend_in[:, :, _WIDTH // 2] = own


def fit(level: LevelData) -> CNN:
    """Train on these rows, with early stopping on an inner fold."""
    return train_network(CNN, level)
