"""Small monotone networks as second levels, added to what is linear: what they read, how they learn, how
they are kept.

Weights that must not be below 0 are put back there after each step (projected gradient descent), so that no
output falls when a member says more. Sill 1998, Monotonic Networks; Daniels, Velikova 2010, Monotone and
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

EPOCHS, PATIENCE = 80, 8  # at most; without a gain on the watched fold
RATE, DECAY = 0.02, 0.01  # AdamW
_NUMBERS = 2_000_000  # to learn a few hundred weights from
_STEPS = 8  # of an epoch; a batch is an eighth of the rows ...
BATCH = (64, 4096)  # ... within these


class BlenderNetwork(torch.nn.Module, ABC):
    """What is added to the start of linear.py, by the members' words (N, M, C), standardised; at the start
    nothing.

    Fitted it is a second level: `apply`, `as_json`, `from_json`.
    """

    hidden: ClassVar[int] = 8

    def __init__(self, start: Linear, members: int, outputs: int):
        super().__init__()
        self.start, self.kind, self.members, self.outputs = start, start.kind, members, outputs
        self.epochs = 0
        self.register_buffer("centre", torch.zeros(outputs))  # of an output's words
        self.register_buffer("scale", torch.ones(outputs))
        self.register_buffer("unit", torch.ones(outputs))  # of what is added: a logit, or numbers' deviation

    @abstractmethod
    def bend(self, x: torch.Tensor) -> torch.Tensor:
        """(N, M, C) to (N, C): what is not linear, 0 at the start."""

    @abstractmethod
    def project(self) -> None:
        """Put weights back to where the network is monotone."""

    def forward(self, x: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """(N, M, C) words and the start (N, C) to (N, C) scores: logits, or numbers."""
        return start + self.unit * self.bend((x - self.centre) / self.scale)

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """(M, N, C) members' predictions to (N, C)."""
        with torch.no_grad():
            score = self(as_network_input(said, self.kind), torch.from_numpy(self.start.score(said)))
        return activated(score.numpy(), self.kind)

    def loss(self, x: torch.Tensor, start: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log loss, or squared error in units of the numbers' variance, over the known cells."""
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
        """What `as_json` gave."""
        network = cls(Linear.from_json(stored["start"]), stored["members"], stored["outputs"])
        network.load_state_dict({name: torch.tensor(value) for name, value in stored["state"].items()})
        network.epochs = stored["epochs"]
        return network.eval()


def as_network_input(said: np.ndarray, kind: Kind) -> torch.Tensor:
    """(M, N, C) members' predictions to (N, M, C) float32 log-odds, or numbers."""
    found = as_logits(said, kind).astype(np.float32, order="C")
    return torch.from_numpy(found).permute(1, 0, 2).contiguous()  # one layout, for the same bits


def train_network(cls: type[BlenderNetwork], level: LevelData) -> BlenderNetwork:
    """A network of all rows, in as many epochs as gained on a watched fold; a quarter of `EPOCHS` where there
    is none to watch."""
    level = level.sample(max(1, _NUMBERS // (level.oof.shape[0] * level.oof.shape[2])))
    epochs = EPOCHS // 4
    for learned, watched in level.inner():
        epochs = train(cls, learned, EPOCHS, watched).epochs
        break
    return train(cls, level, epochs)


def train(
    cls: type[BlenderNetwork], level: LevelData, epochs: int, watched: LevelData | None = None
) -> BlenderNetwork:
    """Train for so many epochs; with `watched`, `epochs` of the network says how many of them were best, 0
    where the start itself was."""
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
        if np.isfinite(found) and not found >= lowest:  # also where the start has no loss
            lowest, best = found, epoch
        if others is not None and epoch - best >= PATIENCE:
            break
    network.epochs = best if others is not None else epochs
    return network.eval()


def tensors(level: LevelData, start: Linear) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Words (N, M, C), starts (N, C) and targets (N, C), in float32."""
    score = torch.from_numpy(start.score(level.oof).astype(np.float32))
    return as_network_input(level.oof, level.kind), score, torch.from_numpy(level.targets.astype(np.float32))


def _standardise(network: BlenderNetwork, x: torch.Tensor, targets: torch.Tensor) -> None:
    """By the words (N, M, C), of classes all alike; what is added to numbers by the targets (N, C)."""
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
