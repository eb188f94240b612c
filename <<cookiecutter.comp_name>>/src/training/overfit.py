"""Sanity check: overfit a single batch.

A network that cannot memorise sixteen images cannot learn from sixteen thousand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from src.config import Augment, Config, EarlyStopping, Ema, Losses, Mixing, Train
from src.data.loaders import TrainingBatches, read_folds
from src.data.mask_targets import MaskTargets, to_loss_targets
from src.tasks.base import targets_in
from src.training.trainer import Trainer

STEPS = 200
NEAR_ZERO = 0.05  # fraction of the first loss, or of the gap between the first and the perfect score
STEADY = 3  # consecutive steps
_KEPT = (
    "optimizer",
    "lr",
    "momentum",
    "batch_size",
    "images_per_class",
    "target_log",
    "amp",
    "channels_last",
)


@dataclass(frozen=True)
class OverfitResult:
    """Result of the check: the loss before each step, the final metric, and whether it succeeded."""

    losses: list[float]
    score: float
    learned: bool

    @property
    def words(self) -> str:
        """The loss curve as text: the loss at a few steps."""
        places = sorted({1, 2, 5, 10, 20, 50, 100, 150, len(self.losses)})
        return ", ".join(f"{self.losses[n - 1]:.3g} at step {n}" for n in places if n <= len(self.losses))

    def advice(self, settings: Train) -> str:
        """What to check next, the likeliest cause first, judged from the shape of the loss curve."""
        first, last, lowest = self.losses[0], self.losses[-1], min(self.losses)
        lower, higher = f"train.lr={settings.lr / 10:g}", f"train.lr={settings.lr * 10:g}"
        if not math.isfinite(last) or last > 2 * first:
            return f"it blows up: lower the rate to {lower}; then look at the range of the targets"
        if last > 2 * lowest and lowest < 0.5 * first:
            return f"it falls and comes back: the rate is too high, try {lower}"
        if last < 0.7 * first:
            return f"it falls, but slowly: raise the rate to {higher}"
        return (
            f"it hardly moves: try {higher}; then look at the targets (data/summary.md: is it the right "
            f"column?), at the images (samples.png: are they blank, is data.max_value right? they are "
            f"normalised by data/cache/*/statistics.json), and at train.loss"
        )


def without_regularisation(config: Config) -> Config:
    """The config with the same network and loss and without regularisation (augmentation, mixing, dropout,
    label smoothing, EMA, distillation, consistency)."""
    train = {name: getattr(config.train, name) for name in (*Losses.model_fields, *_KEPT)}
    train |= {
        "label_smoothing": 0.0,
        "epochs": 1,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "min_lr": 0.0,
        "early_stopping": EarlyStopping(enabled=False),
        "ema": Ema(enabled=False),
    }
    undropped = {"drop_rate": 0.0, "drop_path_rate": 0.0, "dropout_samples": None}
    larger = config.data.cache_size is not None
    return config.model_copy(
        update={
            "train": Train(**train),
            "augment": Augment(hflip=0.0, crop_scale=(1.0, 1.0), crop="centre" if larger else None),
            "mixing": Mixing(),
            "model": config.model.model_copy(update=undropped),
            "distill": type(config.distill)(),
            "consistency": None,
        }
    )


def learn_by_heart(
    trainer: Trainer, steps: int = STEPS, report: Callable[[int], None] = lambda steps: None
) -> OverfitResult:
    """Overfit the first batch: train on it alone until the loss stays near zero, for at most `steps` steps.

    Some losses keep a remainder, such as Dice of an absent class, so an almost perfect metric counts as
    success too.
    """
    batch = FixedBatch(trainer)
    first, losses = batch.score(), []
    trainer.freeze.apply(0)
    for _ in range(steps):
        losses.append(batch.step())
        if not math.isfinite(losses[-1]) or near_zero(losses):
            break
        report(1)
    last = batch.score()
    return OverfitResult(losses, last, near_zero(losses) or gap_closed(first, last, batch.perfect()))


def near_zero(losses: list[float]) -> bool:
    """Whether the last `STEADY` losses are all near zero, relative to the first loss."""
    return len(losses) > STEADY and all(loss <= NEAR_ZERO * abs(losses[0]) for loss in losses[-STEADY:])


def gap_closed(first: float, last: float, perfect: float) -> bool:
    """Whether the metric moved almost all the way from the first score to the perfect one."""
    return abs(perfect - last) <= NEAR_ZERO * abs(perfect - first)  # False for NaN


class FixedBatch:
    """The first batch of a training; trains on it and scores it with the network in training mode."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        seed, self.rows = next(iter(trainer.sampler))
        self.batches = TrainingBatches(trainer.rows, trainer.data.store, trainer.config)
        parts = (part.to(trainer.device) for part in self.batches[seed, self.rows])
        self.images, targets, self.weights = parts
        self.targets = to_loss_targets(targets)

    def step(self) -> float:
        """Do one optimiser step; returns the weighted mean loss before it."""
        trainer = self.trainer
        with trainer.precision.autocast():
            losses = trainer.sample_losses(self.images, self.targets)
        loss = (losses * self.weights).sum() / self.weights.sum()
        trainer.precision.backward(loss)
        trainer.precision.step(trainer.optimizer, trainer.model, clip_grad=None)
        return float(loss.detach())

    @torch.no_grad()
    def score(self) -> float:
        """The task's metric on the batch."""
        task = self.trainer.task
        self.trainer.model.train()
        logits = self.trainer.model(self.images).logits
        said = task.compact(task.activate(self.trainer.model.scale.decode(logits)))
        return task.score(self.truth(), task.gathered([said], self.trainer.data.outputs))

    def perfect(self) -> float:
        """The metric of perfect predictions; NaN for ranking tasks, where the loss is a sufficient check."""
        task, outputs = self.trainer.task, self.trainer.data.outputs
        if task.kind == "rankings":
            return math.nan
        if task.kind == "maps":
            return task.score(self.truth(), [mask.astype(np.uint8) * 255 for mask in self.truth()])
        return task.score(self.truth(), task.encode(self.labels(), outputs))

    def truth(self) -> Any:
        """The batch's ground truth, in the form that the metric expects."""
        data = self.trainer.data
        if self.trainer.task.kind == "maps":
            masks = data.train.targets
            whole = MaskTargets(masks.sources, masks.source[self.rows], masks.row[self.rows]).masks()
            side = self.images.shape[-1]  # crop the centre, as the images of a larger cache are
            first = (whole[0].shape[-1] - side) // 2
            return [mask[:, first : first + side, first : first + side] for mask in whole]
        return self.trainer.task.truth(self.labels(), data.outputs)

    def labels(self) -> pd.DataFrame:
        """The rows of folds.csv with the batch's targets."""
        return targets_in(read_folds(self.trainer.config)).iloc[self.trainer.data.train_index[self.rows]]
