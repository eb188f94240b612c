"""Optimiser steps one at a time, for what looks at a training from outside: the rate finder, the probe."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from src.data.levels import as_targets
from src.losses.build import reduce
from src.training.fit import Trainer

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # images, targets, weights


def windows(trainer: Trainer) -> Iterator[list[Batch]]:
    """The batches of each optimiser step, epoch after epoch without end."""
    epoch, accumulate = 0, trainer.config.train.accumulate
    while True:
        trainer.sampler.epoch, window = epoch, []
        for batch in trainer.loader:
            window.append(batch)
            if len(window) == accumulate:
                yield window
                window = []
        if window:
            yield window
        epoch += 1


def take_step(trainer: Trainer, window: list[Batch]) -> float:
    """One optimiser step, at whatever rate the optimiser has; gives the weighted mean loss before it."""
    total, loss = sum(float(weights.sum()) for _, _, weights in window), 0.0
    for batch in window:
        images, targets, weights = (x.to(trainer.device, non_blocking=True) for x in batch)
        with trainer.precision.autocast():
            losses = trainer.sample_losses(images, as_targets(targets))
        reduced = reduce(losses, weights, total)
        trainer.precision.backward(reduced)
        loss += float(reduced.detach())
    trainer.precision.step(trainer.optimizer, trainer.model, trainer.config.train.clip_grad)
    return loss
