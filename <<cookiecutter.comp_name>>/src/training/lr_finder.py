"""Learning-rate finder (LR range test): raises the rate at every step and records the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.config import Config
from src.training.single_steps import take_step, windows
from src.training.trainer import Trainer

STEPS, LOW, HIGH = 100, 1e-7, 10.0  # steps; lowest rate (nothing changes), highest (divergence)
SMOOTHING = 0.95  # EMA factor of the loss: batch noise exceeds the change per step
BLOWN = 4.0  # stop at this multiple of the best loss: the training has diverged
SPAN = 0.5  # half-width of the slope's window, in decades: slopes between single steps are noise
HEAD, TAIL = 0.1, 1  # left out: fraction at the start, where the EMA is unsteady; steps at the end


@dataclass(frozen=True)
class Suggestion:
    """Learning rates read off the curve, None if the loss never falls; `rate` is suggested, `why`
    explains."""

    steepest: float | None
    tenth: float | None
    rate: float | None
    why: str


def for_range_test(config: Config) -> Config:
    """The config for a range test: without freezing, EMA and consistency training, which change over time."""
    train = config.train.model_copy(
        update={"freeze_epochs": None, "ema": config.train.ema.model_copy(update={"enabled": False})}
    )
    return config.model_copy(update={"train": train, "consistency": None})  # its teacher is the EMA


def range_test(
    trainer: Trainer, steps: int = STEPS, report: Callable[[int], None] = lambda steps: None
) -> pd.DataFrame:
    """Run the LR range test; returns a table with `lr`, `loss` (before the step) and `smoothed`.

    The head's rate rises geometrically from `LOW` to `HIGH`, and other layers keep their ratio to it. The
    test stops early when the smoothed loss exceeds `BLOWN` times its best.

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
        smoothed.append(mean / (1 - SMOOTHING ** (number + 1)))  # bias correction: the EMA starts at zero
        if not np.isfinite(smoothed[-1]):
            losses.pop()
            smoothed.pop()
            break
        if number >= HEAD * steps and smoothed[-1] > BLOWN * best:
            break
        best = min(best, smoothed[-1])
    return pd.DataFrame({"lr": rates[: len(losses)], "loss": losses, "smoothed": smoothed})


def suggest(curve: pd.DataFrame) -> Suggestion:
    """Suggest a learning rate from the curve of a range test.

    It is the lower of the rate with the steepest fall and a tenth of the rate with the lowest smoothed loss.
    """
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
    """Slope between the first and the last point for which `near` is true."""
    first, last = np.flatnonzero(near)[[0, -1]]
    return (y[last] - y[first]) / (x[last] - x[first]) if last > first else 0.0
