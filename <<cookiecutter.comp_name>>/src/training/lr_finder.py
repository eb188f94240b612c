"""The learning-rate range test: the rate rises step by step, and the loss says which are worth trying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.config import Config
from src.training.single_steps import take_step, windows
from src.training.trainer import Trainer

STEPS, LOW, HIGH = 100, 1e-7, 10.0  # as many steps as rates, from where nothing moves to where all breaks
SMOOTHING = 0.95  # of the loss from step to step: batches differ by more than a step changes
BLOWN = 4.0  # times the best loss so far: nothing is learned from going on
SPAN = 0.5  # decades to either side that a slope is taken over: from step to step it is noise
HEAD, TAIL = 0.1, 1  # left out: the share at the start that the mean is still unsteady in, the last steps


@dataclass(frozen=True)
class Suggestion:
    """Rates read off the curve, each None where the loss never falls; `rate` is the one to take, `why` says
    so."""

    steepest: float | None
    tenth: float | None
    rate: float | None
    why: str


def for_range_test(config: Config) -> Config:
    """The same training with everything in it that a rate acts on, and nothing that changes with time."""
    train = config.train.model_copy(
        update={"freeze_epochs": None, "ema": config.train.ema.model_copy(update={"enabled": False})}
    )
    return config.model_copy(update={"train": train, "consistency": None})  # whose teacher EMA is


def range_test(
    trainer: Trainer, steps: int = STEPS, report: Callable[[int], None] = lambda steps: None
) -> pd.DataFrame:
    """The curve: `lr`, `loss` of the batch before the step with it, `smoothed`. The rate of the head rises
    from `LOW` to `HIGH` by equal factors, those of other layers with it, until the loss is `BLOWN` times its
    best.

    Smith 2017, Cyclical Learning Rates for Training Neural Networks.
    """
    rates, losses, mean, best = np.geomspace(LOW, HIGH, steps), [], 0.0, np.inf
    peak = max(group["initial_lr"] for group in trainer.optimizer.param_groups)
    smoothed: list[float] = []
    trainer.freeze.apply(0)
    for number, window in zip(range(steps), windows(trainer), strict=False):
        for group in trainer.optimizer.param_groups:
            group["lr"] = group["initial_lr"] / peak * rates[number]
        losses.append(take_step(trainer, window))
        report(1)
        mean = SMOOTHING * mean + (1 - SMOOTHING) * losses[-1]
        smoothed.append(mean / (1 - SMOOTHING ** (number + 1)))  # the mean starts at zero, and is freed of it
        if not np.isfinite(smoothed[-1]):
            losses.pop()
            smoothed.pop()
            break
        if number >= HEAD * steps and smoothed[-1] > BLOWN * best:
            break
        best = min(best, smoothed[-1])
    return pd.DataFrame({"lr": rates[: len(losses)], "loss": losses, "smoothed": smoothed})


def suggest(curve: pd.DataFrame) -> Suggestion:
    """Where the smoothed loss falls fastest, and a tenth of where it is lowest; the lower of the two is
    taken."""
    inside = curve.iloc[int(HEAD * len(curve)) : len(curve) - TAIL]
    rates, smoothed = inside["lr"].to_numpy(), inside["smoothed"].to_numpy()
    lowest = int(np.argmin(smoothed)) if len(smoothed) else 0
    if lowest < 2:
        return Suggestion(
            None, None, None, "the loss never falls at any rate: is the target right, are the images?"
        )
    decades = np.log10(rates[: lowest + 1])
    slope = [_slope(decades, smoothed[: lowest + 1], np.abs(decades - here) <= SPAN) for here in decades]
    steepest, tenth = float(rates[int(np.argmin(slope))]), float(rates[lowest] / 10)
    which = "where the loss falls fastest" if steepest <= tenth else "a tenth of where the loss is lowest"
    why = f"{which}, the lower of the two: a rate too high costs the run, one too low some epochs"
    return Suggestion(steepest, tenth, min(steepest, tenth), why)


def _slope(x: np.ndarray, y: np.ndarray, near: np.ndarray) -> float:
    """From the first to the last of the points that are near."""
    first, last = np.flatnonzero(near)[[0, -1]]
    return (y[last] - y[first]) / (x[last] - x[first]) if last > first else 0.0
