"""Consistency training on unlabelled images: mean teacher with FixMatch views and confidence mask.

The network learns to predict on strongly augmented views what the EMA of its weights predicts confidently on
weakly augmented ones. The teacher is the EMA of `train.ema` (Tarvainen, Valpola 2017, Mean Teachers are
Better Role Models). The weak and strong views and the confidence threshold follow Sohn et al. 2020, FixMatch:
Simplifying Semi-Supervised Learning with Consistency and Confidence. The targets are soft: the teacher's
probabilities, not its hard labels.
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
    """The unlabelled part of a training: consistency loss between the network and its EMA.

    Call `begin()` before an epoch, `learn()` after each labelled batch, `means()` at the end. All random
    draws come from (seed, epoch, batch). The only state is the sums within an epoch.
    """

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
        """`n_batches` is the number of labelled batches per epoch."""
        self.settings, self.kind = config.consistency, task.distillation
        self.ramp = self.settings.ramp(config.train.epochs)
        self.average, self.precision = average, precision
        device = precision.device
        workers = loader_workers(config, device)
        self.loader, self.sampler = unlabelled_loader(
            store, config, n_batches, workers, seed, device.type == "cuda"
        )

    def begin(self, epoch: int, begun: dict[str, Any] | None = None) -> None:
        """Start an epoch (0-based), or continue one from the state `begun`."""
        begun = begun or {"number": 0, "rows": 0, "sums": torch.zeros(2)}
        self.number, self.rows = begun["number"], begun["rows"]
        self.sampler.epoch, self.sampler.first = epoch, self.number
        self.views = iter(self.loader)
        self.sums = begun["sums"].to(self.precision.device)  # sums of losses and of confident shares

    def state_dict(self) -> dict[str, Any]:
        """State within an epoch."""
        return {"number": self.number, "rows": self.rows, "sums": self.sums}

    def learn(self, window: int) -> None:
        """Backward pass of one unlabelled batch; `window` is the number of such batches per optimiser step.

        The loss is the current weight times the mean over all unlabelled rows of the step, including those
        below the confidence threshold.
        """
        plain, strong, seen = self.next()
        with self.precision.autocast(), torch.no_grad():
            told = self.average.model.eval()(plain)
        with statistics_kept(self.average.live):  # also in backward: checkpointed blocks rerun there
            with self.precision.autocast():
                said = self.average.live(strong).fused()
                threshold = self.settings.threshold
                losses, counted = consistency(self.kind, said.logits, told.logits, threshold, seen)
            self.precision.backward(losses.sum() * self.weight / (window * len(losses)))
        self.sums += torch.stack([losses.detach().sum(), counted.sum()])
        self.number, self.rows = self.number + 1, self.rows + len(losses)

    def next(self) -> tuple[torch.Tensor, ...]:
        """The epoch's next batch, on the device.

        After the last batch the next epoch begins; training never gets there.
        """
        views = next(self.views, None)
        if views is None:
            self.begin(self.sampler.epoch + 1)
            views = next(self.views)
        return tuple(view.to(self.precision.device, non_blocking=True) for view in views)

    @property
    def weight(self) -> float:
        """The current consistency weight: `weight` times the ramp-up exp(-5 (1 - t)^2).

        t is the finished share of the ramp-up of Laine, Aila 2017, Temporal Ensembling: the teacher is
        unreliable at first.
        """
        if not self.ramp:
            return self.settings.weight
        done = min(1.0, (self.sampler.epoch + self.number / len(self.sampler)) / self.ramp)
        return self.settings.weight * math.exp(-5 * (1 - done) ** 2)

    def means(self) -> dict[str, float]:
        """Columns for history.csv: the mean unweighted loss and the mean share of confident predictions."""
        losses, counted = (self.sums / self.rows).tolist()
        return {"unlabelled_loss": losses, "unlabelled_sure": counted}


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Context in which batch norms normalise by the batch as usual without updating running statistics.

    The running statistics must describe images as they are at inference, not strongly augmented views.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
