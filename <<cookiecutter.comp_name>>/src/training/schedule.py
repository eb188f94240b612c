"""The learning rate over time, as a factor of the peak a step; stepped after each optimiser step."""

from __future__ import annotations

import math

import torch

from src.config import Train


def factor(step: int, total: int, warmup: int, schedule: str, floor: float) -> float:
    """The share of the peak rate at `step` (0 first) of `total`.

    Linear warm-up over `warmup` steps up to the peak itself, then cosine down to `floor` (Loshchilov and
    Hutter 2017, SGDR, one cycle) or constant. Past `total` it stays at the floor; torch's own cosine would
    rise again.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    along = min(1.0, (step - warmup) / max(1, total - 1 - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * along))


def create_schedule(
    optimizer: torch.optim.Optimizer, settings: Train, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule the settings name, for `step()` after each optimiser step."""
    total = settings.epochs * steps_per_epoch
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), total - 1)
    floor = settings.min_lr / settings.lr
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factor(step, total, warmup, settings.schedule, floor)
    )
