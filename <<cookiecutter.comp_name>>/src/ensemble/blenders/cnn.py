"""A small 1-D convolution over the (member x output) grid: members are channels, neighbouring outputs the
kernel.

For outputs whose neighbours mean something: grades in order, labels that go together. It may rise with its
own output's words, and what the neighbours' words do to it is never more than what its own do: on noise,
words of other classes tell as much of a fold's labels as the class's own (docs/decisions.md), with the
opposite sign.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from src.ensemble.blenders.base import LevelData
from src.ensemble.blenders.linear import Linear
from src.ensemble.blenders.networks import BlenderNetwork, train_network

_WIDTH = 3  # outputs a kernel sees


class CNN(BlenderNetwork):
    """Added to an output: tanh units of a window of outputs around it, the same for all of them."""

    def __init__(self, start: Linear, members: int, outputs: int):
        super().__init__(start, members, outputs)
        self.bend_in = torch.nn.Parameter(torch.zeros(self.hidden, members, _WIDTH))
        self.bend_in.data[:, :, _WIDTH // 2] = torch.rand(self.hidden, members) * 2
        self.bend_shift = torch.nn.Parameter(torch.randn(self.hidden))
        self.bend_out = torch.nn.Parameter(torch.zeros(self.hidden))

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        """(N, M, C) to (N, C)."""
        inner = F.conv1d(x, self.bend_in / self.members, self.bend_shift, padding=_WIDTH // 2)
        inner = torch.tanh(inner)  # (N, H, C)
        return torch.einsum("nhc,h->nc", inner, self.bend_out)

    def project(self) -> None:
        """No weight of an output's own words below 0, and those of its neighbours no larger together."""
        own = self.bend_in[:, :, _WIDTH // 2]  # (H, M)
        for weight in (self.bend_out, own):
            weight.clamp_(min=0)
        others = self.bend_in.abs().sum(2) - own
        share = torch.where(others > own, own / others.clamp_min(1e-12), torch.ones_like(own))
        own = own.clone()
        self.bend_in.mul_(share[:, :, None])
        self.bend_in[:, :, _WIDTH // 2] = own


def fit(level: LevelData) -> CNN:
    """Trained on these rows, stopped inside them."""
    return train_network(CNN, level)
