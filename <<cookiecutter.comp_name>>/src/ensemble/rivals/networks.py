"""Small monotone networks as second levels: what they read, how they learn, how they are kept.

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

from src.ensemble.rivals.base import Kind, Level, words

EPOCHS, PATIENCE = 80, 8  # at most; without a gain on the watched fold
RATE, DECAY = 0.02, 0.01  # AdamW; the decay is of the non-linear part alone
STEPS = 8  # of an epoch; a batch is an eighth of the rows ...
BATCH = (64, 4096)  # ... within these


class Network(torch.nn.Module, ABC):
    """A function of the members' words (N, M, C), standardised, to scores (N, C); it starts as their mean.

    Fitted it is a second level: `apply`, `as_json`, `from_json`.
    """

    hidden: ClassVar[int] = 8

    def __init__(self, kind: Kind, members: int, outputs: int):
        super().__init__()
        self.kind, self.members, self.outputs = kind, members, outputs
        self.epochs = 0
        self.register_buffer("centre", torch.zeros(outputs))  # of an output's words, or of its numbers
        self.register_buffer("scale", torch.ones(outputs))
        self.direct = torch.nn.Parameter(torch.ones(1 if kind == "classes" else outputs, members))
        self.bias = torch.nn.Parameter(torch.zeros(outputs))

    @abstractmethod
    def bend(self, x: torch.Tensor) -> torch.Tensor:
        """(N, M, C) to (N, C): what is not linear, 0 at the start."""

    @abstractmethod
    def project(self) -> None:
        """Put weights back to where the network is monotone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, M, C) words to (N, C) scores: logits, or standardised numbers."""
        standard = (x - self.centre) / self.scale
        direct = self.direct.expand(self.outputs, self.members) / self.members
        straight = torch.einsum("nmc,cm->nc", standard if self.kind == "values" else x, direct)
        return straight + self.bend(standard) + self.bias

    def apply(self, said: np.ndarray, extra: np.ndarray | None = None) -> np.ndarray:
        """(M, N, C) members' predictions to (N, C)."""
        with torch.no_grad():
            score = self(as_words(said, self.kind))
            if self.kind == "classes":
                score = score.double().softmax(1)
            elif self.kind == "labels":
                score = score.sigmoid()
            else:
                score = score * self.scale + self.centre
        return score.double().numpy()

    def loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log loss, or squared error of standardised numbers, over the known cells."""
        score, known = self(x), ~targets.isnan()
        if self.kind == "classes":
            return F.cross_entropy(score, targets)
        if self.kind == "labels":
            return F.binary_cross_entropy_with_logits(score[known], targets[known])
        return F.mse_loss(score[known], ((targets - self.centre) / self.scale)[known])

    def as_json(self) -> dict[str, Any]:
        """Kind, shape and weights as lists."""
        state = {name: value.tolist() for name, value in self.state_dict().items()}
        shape = {"kind": self.kind, "members": self.members, "outputs": self.outputs, "epochs": self.epochs}
        return {**shape, "state": state}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Network:
        """What `as_json` gave."""
        network = cls(stored["kind"], stored["members"], stored["outputs"])
        network.load_state_dict({name: torch.tensor(value) for name, value in stored["state"].items()})
        network.epochs = stored["epochs"]
        return network.eval()


def as_words(said: np.ndarray, kind: Kind) -> torch.Tensor:
    """(M, N, C) members' predictions to (N, M, C) float32 log-odds, or numbers."""
    return torch.from_numpy(words(said, kind).astype(np.float32)).permute(1, 0, 2)


def learn(cls: type[Network], level: Level) -> Network:
    """A network of all rows, in as many epochs as gained on a watched fold; a quarter of `EPOCHS` where there
    is none to watch."""
    epochs = EPOCHS // 4
    for learned, watched in level.inner():
        epochs = train(cls, learned, EPOCHS, watched).epochs
        break
    return train(cls, level, epochs)


def train(cls: type[Network], level: Level, epochs: int, watched: Level | None = None) -> Network:
    """Train for so many epochs; with `watched`, `epochs` of the network says how many of them were best."""
    generator = torch.Generator().manual_seed(level.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(level.seed)
        network = cls(level.kind, len(level.oof), level.oof.shape[2])
    x, targets = as_words(level.oof, level.kind), torch.from_numpy(level.targets.astype(np.float32))
    with torch.no_grad():
        _standardise(network, x, targets)
    bent = [p for name, p in network.named_parameters() if name.startswith("bend")]
    straight = [network.direct, network.bias]
    groups = [{"params": bent, "weight_decay": DECAY}, {"params": straight, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    size = min(max(BATCH[0], -(-len(x) // STEPS)), BATCH[1])
    lowest, best = _loss_of(network, watched), 0
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(x), generator=generator).split(size):
            optimiser.zero_grad()
            network.loss(x[rows], targets[rows]).backward()
            optimiser.step()
            with torch.no_grad():
                network.project()
        found = _loss_of(network, watched)
        if found < lowest:
            lowest, best = found, epoch
        if watched is not None and epoch - best >= PATIENCE:
            break
    network.epochs = best if watched is not None else epochs
    return network.eval()


def _standardise(network: Network, x: torch.Tensor, targets: torch.Tensor) -> None:
    """By the words (N, M, C), of classes all alike; numbers by the targets (N, C), so that both are in one
    unit."""
    if network.kind == "values":
        centre, scale = targets.nanmean(0), (targets - targets.nanmean(0)).square().nanmean(0).sqrt()
    else:
        axes = (0, 1, 2) if network.kind == "classes" else (0, 1)
        centre, scale = x.mean(axes), x.std(axes)
    network.centre[:] = centre.nan_to_num()  # an output without any known target stays what it is
    network.scale[:] = scale.nan_to_num(1.0).clamp_min(1e-6)


def _loss_of(network: Network, level: Level | None) -> float:
    if level is None:
        return float("inf")
    with torch.no_grad():
        targets = torch.from_numpy(level.targets.astype(np.float32))
        return float(network.loss(as_words(level.oof, level.kind), targets))
