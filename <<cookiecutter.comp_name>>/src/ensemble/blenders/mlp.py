"""Monotone multi-layer perceptron (MLP) with eight hidden units over the members, added to a linear model.

All classes share one MLP; each label and each value has its own.
"""

from __future__ import annotations

import torch

from src.ensemble.blenders.base import LevelData
from src.ensemble.blenders.linear import Linear
from src.ensemble.blenders.networks import BlenderNetwork, train_network


class MLP(BlenderNetwork):
    """Monotone MLP blender: adds tanh units of the members' predictions of an output to it, with non-negative
    weights."""

    def __init__(self, start: Linear, members: int, outputs: int):
        super().__init__(start, members, outputs)
        shared = 1 if self.kind == "classes" else outputs
        self.bend_in = torch.nn.Parameter(torch.rand(shared, self.hidden, members) * 2)
        self.bend_shift = torch.nn.Parameter(torch.randn(shared, self.hidden))
        self.bend_out = torch.nn.Parameter(torch.zeros(shared, self.hidden))

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        """Non-linear part: (N, M, C) to (N, C)."""
        shape = (self.outputs, self.hidden)
        weights = self.bend_in.expand(*shape, self.members) / self.members
        inner = torch.einsum("nmc,chm->nch", x, weights)
        inner = torch.tanh(inner + self.bend_shift.expand(shape))  # (N, C, H)
        return torch.einsum("nch,ch->nc", inner, self.bend_out.expand(shape))

    def project(self) -> None:
        """Clamp the weights to at least 0."""
        for weight in (self.bend_in, self.bend_out):
            weight.clamp_(min=0)


def fit(level: LevelData) -> MLP:
    """Train on these rows, with early stopping on an inner fold."""
    return train_network(MLP, level)
