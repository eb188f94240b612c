"""Small monotone networks as second levels, added to a linear model: their inputs, training and storage.

Weights that must not be negative are clamped after each step (projected gradient descent), so that no output
falls when a member's prediction rises. Sill 1998, Monotonic Networks; Daniels, Velikova 2010, Monotone and
Partially Monotone Neural Networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from src.ensemble.blenders.base import Kind, LevelData, as_logits
from src.ensemble.blenders.calibration import activated
from src.ensemble.blenders.linear import Linear
from src.ensemble.blenders.linear import start as start_of

EPOCHS, PATIENCE = 80, 8  # at most; epochs without a gain on the held-out fold
RATE, DECAY = 0.02, 0.01  # AdamW
_NUMBERS = 2_000_000  # largest number of training values, ample for a few hundred weights
_STEPS = 8  # steps per epoch: a batch is an eighth of the rows ...
BATCH = (64, 4096)  # ... within these limits


class BlenderNetwork(torch.nn.Module, ABC):
    """Base class of network blenders: a correction to the linear start (linear.py), from the members'
    standardised predictions (N, M, C). It is zero at initialisation.

    A trained network is a `Fitted` second level with `apply`, `as_json` and `from_json`.
    """

    hidden: ClassVar[int] = 8

    def __init__(self, start: Linear, members: int, outputs: int):
        super().__init__()
        self.start, self.kind, self.members, self.outputs = start, start.kind, members, outputs
        self.epochs = 0
        self.register_buffer("centre", torch.zeros(outputs))  # mean of an output's predictions
        self.register_buffer("scale", torch.ones(outputs))
        self.register_buffer("unit", torch.ones(outputs))  # of the correction: a logit, or values' deviation

    @abstractmethod
    def bend(self, x: torch.Tensor) -> torch.Tensor:
        """The non-linear correction: (N, M, C) to (N, C), 0 at initialisation."""

    @abstractmethod
    def project(self) -> None:
        """Project the weights back to the set in which the network is monotone."""

    def forward(self, x: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Predictions (N, M, C) and the start (N, C) to scores (N, C): logits, or numbers."""
        return start + self.unit * self.bend((x - self.centre) / self.scale)

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """Members' predictions (M, N, C) to (N, C)."""
        with torch.no_grad():
            score = self(as_network_input(said, self.kind), torch.from_numpy(self.start.score(said)))
        return activated(score.numpy(), self.kind)

    def loss(self, x: torch.Tensor, start: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log loss, or squared error in units of the values' variance, over the known cells."""
        score, known = self(x, start), ~targets.isnan()
        if self.kind == "classes":
            return F.cross_entropy(score, targets)
        if self.kind == "labels":
            return F.binary_cross_entropy_with_logits(score[known], targets[known])
        return F.mse_loss((score / self.unit)[known], (targets / self.unit)[known])

    def as_json(self) -> dict[str, Any]:
        """Start, shape and weights as lists."""
        state = {name: value.tolist() for name, value in self.state_dict().items()}
        shape = {"members": self.members, "outputs": self.outputs, "epochs": self.epochs}
        return {"start": self.start.as_json(), **shape, "state": state}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> BlenderNetwork:
        """Rebuild from the output of `as_json`."""
        network = cls(Linear.from_json(stored["start"]), stored["members"], stored["outputs"])
        network.load_state_dict({name: torch.tensor(value) for name, value in stored["state"].items()})
        network.epochs = stored["epochs"]
        return network.eval()


def as_network_input(said: np.ndarray, kind: Kind) -> torch.Tensor:
    """Members' predictions (M, N, C) to float32 log-odds, or numbers, as (N, M, C)."""
    found = as_logits(said, kind).astype(np.float32, order="C")
    return torch.from_numpy(found).permute(1, 0, 2).contiguous()  # one layout: identical bits


def train_network(cls: type[BlenderNetwork], level: LevelData) -> BlenderNetwork:
    """Train on all rows, for the number of epochs that was best on one held-out fold, or a quarter of
    `EPOCHS` if there is no fold to hold out."""
    level = level.sample(max(1, _NUMBERS // (level.oof.shape[0] * level.oof.shape[2])))
    epochs = EPOCHS // 4
    for learned, watched in level.inner():
        epochs = train(cls, learned, EPOCHS, watched).epochs
        break
    return train(cls, level, epochs)


def train(
    cls: type[BlenderNetwork], level: LevelData, epochs: int, watched: LevelData | None = None
) -> BlenderNetwork:
    """Train for `epochs` epochs. With `watched` (held-out data) there is early stopping, and the network's
    `epochs` is the best epoch, 0 if the start was best."""
    generator, first = torch.Generator().manual_seed(level.seed), start_of(level)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(level.seed)
        network = cls(first, len(level.oof), level.oof.shape[2])
    rows = tensors(level, first)
    others = None if watched is None else tensors(watched, first)
    _standardise(network, rows[0], rows[2])
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    size = min(max(BATCH[0], -(-len(rows[0]) // _STEPS)), BATCH[1])
    lowest, best = _loss_of(network, others), 0
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(len(rows[0]), generator=generator).split(size):
            optimiser.zero_grad()
            network.loss(*(part[batch] for part in rows)).backward()
            optimiser.step()
            with torch.no_grad():
                network.project()
        found = _loss_of(network, others)
        if np.isfinite(found) and not found >= lowest:  # also if the loss of the start is undefined
            lowest, best = found, epoch
        if others is not None and epoch - best >= PATIENCE:
            break
    network.epochs = best if others is not None else epochs
    return network.eval()


def tensors(level: LevelData, start: Linear) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Float32 tensors: log-odds or numbers (N, M, C), starts (N, C) and targets (N, C)."""
    score = torch.from_numpy(start.score(level.oof).astype(np.float32))
    return as_network_input(level.oof, level.kind), score, torch.from_numpy(level.targets.astype(np.float32))


def _standardise(network: BlenderNetwork, x: torch.Tensor, targets: torch.Tensor) -> None:
    """Set mean and scale from the inputs (N, M, C), shared by all classes, and for values the unit of the
    correction from the targets (N, C)."""
    axes = (0, 1, 2) if network.kind == "classes" else (0, 1)
    network.centre[:] = x.mean(axes)
    network.scale[:] = x.std(axes).clamp_min(1e-6)
    if network.kind == "values":
        spread = (targets - targets.nanmean(0)).square().nanmean(0).sqrt()
        network.unit[:] = spread.nan_to_num(1.0).clamp_min(1e-6)


def _loss_of(network: BlenderNetwork, rows: tuple[torch.Tensor, ...] | None) -> float:
    if rows is None:
        return float("inf")
    with torch.no_grad():
        return float(network.loss(*rows))
