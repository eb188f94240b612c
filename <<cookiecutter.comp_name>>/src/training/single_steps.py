"""Single optimiser steps outside the training loop, for the learning-rate finder and the memory probe."""

from __future__ import annotations

from collections.abc import Iterator

from src.data.mixing import Batch
from src.losses.reduction import reduce
from src.training.trainer import Trainer


def windows(trainer: Trainer) -> Iterator[list[Batch]]:
    """Endless iterator over optimiser steps: the batches of each (accumulation window), prepared."""
    epoch, accumulate = 0, trainer.config.train.accumulate
    while True:
        trainer.sampler.epoch, window = epoch, []
        if trainer.consistency is not None:
            trainer.consistency.begin(epoch)
        for number, batch in enumerate(trainer.loader):
            window.append(trainer.prepare_batch(batch, epoch, number))
            if len(window) == accumulate:
                yield window
                window = []
        if window:
            yield window
        epoch += 1


def take_step(trainer: Trainer, window: list[Batch]) -> float:
    """Do one optimiser step at the optimiser's current rate; returns the weighted mean loss before it."""
    total, loss = sum(float(weights.sum()) for _, _, weights in window), 0.0
    for images, targets, weights in window:
        with trainer.precision.autocast():
            losses = trainer.sample_losses(images, targets)
        reduced = reduce(losses, weights, total, trainer.config.train.top_share)
        trainer.precision.backward(reduced)
        loss += float(reduced.detach())
        if trainer.consistency is not None:
            trainer.consistency.learn(len(window))
    trainer.precision.step(trainer.optimizer, trainer.model, trainer.config.train.clip_grad)
    return loss
