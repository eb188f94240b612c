"""A mean teacher: the network learns to say of strong views what the average of its weights is sure of on
plain ones, of images that nobody labelled.

The teacher is the average that `train.ema` keeps anyway (Tarvainen, Valpola 2017, Mean Teachers are Better
Role Models); plain and strong views and the mask by confidence are those of Sohn et al. 2020, FixMatch:
Simplifying Semi-Supervised Learning with Consistency and Confidence. What is learned are the teacher's
probabilities, not its decisions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.config import Config
from src.data.images import ImageStore
from src.data.unlabelled import unlabelled_loader
from src.losses.consistency import consistency
from src.tasks.base import Task
from src.training.averaging import Average
from src.training.devices import Precision, loader_workers


class ConsistencyTraining:
    """The unlabelled side of a training: `begin()` before an epoch, `learn()` after each labelled batch, and
    `means()` at the end. All draws come from (seed, epoch, batch); its state is what an epoch has
    summed."""

    def __init__(
        self,
        config: Config,
        task: Task,
        store: ImageStore,
        average: Average,
        precision: Precision,
        n_batches: int,
        seed: int,
    ):
        """`n_batches` is how many labelled batches an epoch has."""
        self.settings, self.kind = config.consistency, task.distillation
        self.ramp = self.settings.ramp(config.train.epochs)
        self.average, self.precision = average, precision
        device = precision.device
        workers = loader_workers(config, device)
        self.loader, self.sampler = unlabelled_loader(
            store, config, n_batches, workers, seed, device.type == "cuda"
        )

    def begin(self, epoch: int, begun: dict[str, Any] | None = None) -> None:
        """Get ready for an epoch (0 first), or go on with one that was `begun`."""
        begun = begun or {"number": 0, "rows": 0, "sums": torch.zeros(2)}
        self.number, self.rows = begun["number"], begun["rows"]
        self.sampler.epoch, self.sampler.first = epoch, self.number
        self.views = iter(self.loader)
        self.sums = begun["sums"].to(self.precision.device)  # of losses, of shares that counted

    def state_dict(self) -> dict[str, Any]:
        """Of an epoch that was begun."""
        return {"number": self.number, "rows": self.rows, "sums": self.sums}

    def learn(self, window: int) -> None:
        """Add the gradients of one batch to those of an optimiser step that takes in `window` of them: the
        weight of now times the mean over the step's unlabelled rows, those that do not count among them."""
        plain, strong, seen = self.next()
        with self.precision.autocast(), torch.no_grad():
            told = self.average.model.eval()(plain)
        with statistics_kept(self.average.live):  # on the way back too: blocks may run a second time there
            with self.precision.autocast():
                said = self.average.live(strong).fused()
                threshold = self.settings.threshold
                losses, counted = consistency(self.kind, said.logits, told.logits, threshold, seen)
            self.precision.backward(losses.sum() * self.weight / (window * len(losses)))
        self.sums += torch.stack([losses.detach().sum(), counted.sum()])
        self.number, self.rows = self.number + 1, self.rows + len(losses)

    def next(self) -> tuple[torch.Tensor, ...]:
        """The epoch's next batch, on the device; after the last one, which no training asks for, the first of
        another epoch."""
        views = next(self.views, None)
        if views is None:
            self.begin(self.sampler.epoch + 1)
            views = next(self.views)
        return tuple(view.to(self.precision.device, non_blocking=True) for view in views)

    @property
    def weight(self) -> float:
        """That of the settings, along Laine's and Aila's (2017, Temporal Ensembling) curve: exp(-5 (1 - t)^2)
        of it when the share t of the ramp is done. A young teacher has little to say."""
        if not self.ramp:
            return self.settings.weight
        done = min(1.0, (self.sampler.epoch + self.number / len(self.sampler)) / self.ramp)
        return self.settings.weight * math.exp(-5 * (1 - done) ** 2)

    def means(self) -> dict[str, float]:
        """For history.csv: the mean loss before its weight, and what share of the teacher's words counted."""
        losses, counted = (self.sums / self.rows).tolist()
        return {"unlabelled_loss": losses, "unlabelled_sure": counted}


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Within it batch norms in training mode go by their batch, as ever, and leave their running statistics
    alone: these are of images as they will be predicted, not of strong views."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
