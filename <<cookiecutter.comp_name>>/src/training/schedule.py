"""Learning-rate schedules: the rate at each optimiser step, as a fraction of the peak rate.

    peak |  frozen backbone ----+      +--- hold ---+ the schedule's own shape
         |                      |    /              |   ...
         +----------------------+--/ warm-up -------+----------------------->

Each schedule is a closed form of the step number, so resuming needs only that number, and a fraction of each
group's own peak, so layer-wise learning rates keep their ratios. PyTorch's schedulers are not used: they
compute each rate from the previous one and share one minimum between all groups, and some rise again or fail
after the last step. The tests compare ours with them. The plateau schedule uses PyTorch's ReduceLROnPlateau.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src.config import Train

_Shape = Callable[[int], float]  # optimiser step (0-based) -> fraction of the peak rate

DROP = 0.1  # decay factor of step and plateau if train.lr_decay is null
INVERSE_RATE = 0.5  # decay rate per epoch: after 15 epochs the rate is about 1/9 of the peak
PLATEAU_PATIENCE = 4
RISE, LOW, MOMENTUM = 0.3, 1 / 25, (0.95, 0.85)  # one-cycle: rising fraction, first rate, momentum


class Schedule:
    """Learning-rate scheduler: call `step()` after each optimiser step and `look(score)` after each
    validation on the early-stopping split. A group's peak is its rate when the schedule is created."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, settings: Train, steps_per_epoch: int, sign: int = 1
    ):
        """`sign` is 1 if a higher score is better and -1 if a lower one is."""
        self.optimizer, self.done = optimizer, 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.share = create_curve(settings, steps_per_epoch)
        self.momentum = one_cycle_momentum(settings, steps_per_epoch)
        self.plateau = create_plateau(settings, sign) if settings.schedule == "plateau" else None
        self._set()

    @property
    def rate(self) -> float:
        """The highest learning rate of all groups, which is the head's."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def step(self) -> None:
        """Advance by one optimiser step."""
        self.done += 1
        self._set()

    def look(self, score: float) -> None:
        """Report the early-stopping score to the plateau schedule; other schedules ignore it."""
        if self.plateau is not None:
            self.plateau.step(score)
            self._set()

    def _set(self) -> None:
        share = self.share(self.done)
        if self.plateau is not None:
            share *= self.plateau.optimizer.param_groups[0]["lr"]
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
            if self.momentum is not None:
                set_momentum(group, self.momentum(self.done))

    def state_dict(self) -> dict[str, Any]:
        plateau = None if self.plateau is None else self.plateau.state_dict()
        return {"done": self.done, "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])
            self.plateau.optimizer.param_groups[0]["lr"] = state["plateau"]["_last_lr"][0]
        self._set()


def create_curve(settings: Train, steps_per_epoch: int) -> _Shape:
    """The whole learning-rate curve: step -> fraction of the peak, with warm-up, hold, schedule and SWA.

    The fraction is 1 while the backbone is frozen. Then come a linear warm-up to the schedule's first value
    (Goyal et al. 2017, Accurate, Large Minibatch SGD), a hold, and the schedule itself. After the last step
    the fraction stays constant. With `train.swa.lr` the SWA phase has its own rate.
    """
    total = settings.epochs * steps_per_epoch
    frozen, warmup, hold = front_of(settings, steps_per_epoch)
    front = frozen + warmup + hold
    shape = _SHAPES[settings.schedule](settings, steps_per_epoch, front, total)

    def share(step: int) -> float:
        if step < frozen:
            return 1.0
        if step < frozen + warmup:
            return shape(front) * (step - frozen + 1) / (warmup + 1)
        return shape(min(max(step, front), total - 1))

    return share if settings.swa.lr is None else swa_rate(share, settings, steps_per_epoch)


def front_of(settings: Train, steps_per_epoch: int) -> tuple[int, int, int]:
    """Numbers of steps before the schedule: (frozen backbone, warm-up, hold).

    At least one step is left after them.
    """
    left = settings.epochs * steps_per_epoch - 1
    steps = []
    for epochs in (settings.freeze_epochs, settings.warmup_epochs, settings.hold_epochs):
        steps.append(min(round((epochs or 0) * steps_per_epoch), left))
        left -= steps[-1]
    return tuple(steps)


def cycle_ends(settings: Train) -> list[int]:
    """The epochs at which cosine cycles (warm restarts) end; the last one is the last epoch.

    Every cycle ends with an epoch, so each end can be validated and saved; lengths differ by at most one.
    """
    front = sum(front_of(settings, 1000)) / 1000
    each = (settings.epochs - front) / (settings.cycles or 1)
    return [math.floor(front + each * number + 0.5) for number in range(1, (settings.cycles or 1) + 1)]


# --- schedules: (settings, steps per epoch, first step, end step) -> fraction of the peak at each step ------


def constant(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """Constant learning rate: the peak."""
    return lambda step: 1.0


def cosine(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """Cosine annealing from the peak to the minimum, with warm restarts (Loshchilov, Hutter 2017, SGDR)."""
    floor, decay = settings.min_lr / settings.lr, settings.cycle_decay or 1.0
    ends = [epoch * steps_per_epoch for epoch in cycle_ends(settings)]
    starts = [front, *ends[:-1]]

    def share(step: int) -> float:
        cycle = bisect_right(starts, step) - 1
        along = (step - starts[cycle]) / max(1, ends[cycle] - 1 - starts[cycle])
        peak = max(floor, decay**cycle)
        return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * along))

    return share


def steps(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """Step decay: at each epoch of `train.steps` the rate changes to the next of `train.step_lrs`.

    Without `train.step_lrs` it is multiplied by `train.lr_decay`.
    """
    edges = [round(epoch * steps_per_epoch) for epoch in settings.steps]
    if settings.step_lrs is not None:
        shares = [1.0, *(rate / settings.lr for rate in settings.step_lrs)]
    else:
        floor, factor = settings.min_lr / settings.lr, settings.lr_decay or DROP
        shares = [max(floor, factor**number) for number in range(len(edges) + 1)]
    return lambda step: shares[bisect_right(edges, step)]


def piecewise(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """Piecewise-linear schedule: from the peak through `train.step_lrs` at epochs `train.steps`.

    After the last of them the rate is constant.
    """
    edges = [front, *(epoch * steps_per_epoch for epoch in settings.steps)]
    shares = [1.0, *(rate / settings.lr for rate in settings.step_lrs)]
    return lambda step: float(np.interp(step, edges, shares))


def exponential(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """Exponential decay by a factor per epoch; the default factor ends at the minimum rate."""
    floor = settings.min_lr / settings.lr
    if settings.lr_decay is None:
        factor = floor ** (1 / max(1, end - 1 - front))  # per step
    else:
        factor = settings.lr_decay ** (1 / steps_per_epoch)
    return lambda step: max(floor, factor ** (step - front))


def inverse_time(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """Inverse time decay: 1 / (1 + k * epochs) (Robbins, Monro 1951, A Stochastic Approximation Method)."""
    floor, k = settings.min_lr / settings.lr, settings.lr_decay or INVERSE_RATE
    return lambda step: max(floor, 1 / (1 + k * (step - front) / steps_per_epoch))


def one_cycle(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """One-cycle schedule (1cycle, OneCycleLR): cosine rise, then cosine fall to the minimum.

    The rise goes from 1/25 of the peak to the peak during the first 30 % of the steps (Smith 2018, A
    Disciplined Approach to Neural Network Hyper-Parameters).
    """
    floor, height, top = settings.min_lr / settings.lr, one_cycle_height(front, end), peak_of(front, end)

    def share(step: int) -> float:
        low = LOW if step <= top else floor
        return low + (1 - low) * height(step)

    return share


_SHAPES: dict[str, Callable[[Train, int, int, int], _Shape]] = {
    "constant": constant,
    "cosine": cosine,
    "step": steps,
    "plateau": constant,
    "onecycle": one_cycle,
    "exponential": exponential,
    "inverse_time": inverse_time,
    "piecewise": piecewise,
}

# --- one-cycle: momentum falls while the learning rate rises ------------------------------------------------


def peak_of(front: int, end: int) -> float:
    """The step, possibly fractional, at which the one-cycle schedule peaks."""
    return front + max(0.0, RISE * (end - front) - 1)


def one_cycle_height(front: int, end: int) -> _Shape:
    """One-cycle curve: 0 at the start, 1 at the peak and 0 at the end, with cosine interpolation."""
    top = peak_of(front, end)

    def height(step: int) -> float:
        span = max(1.0, top - front if step <= top else end - 1 - top)
        return (1 + math.cos(math.pi * min(1.0, abs(step - top) / span))) / 2

    return height


def one_cycle_momentum(settings: Train, steps_per_epoch: int) -> _Shape | None:
    """Momentum of the one-cycle schedule, low where the rate is high (Smith 2018); None for others."""
    if settings.schedule != "onecycle":
        return None
    front, end = sum(front_of(settings, steps_per_epoch)), settings.epochs * steps_per_epoch
    height, (most, least) = one_cycle_height(front, end), MOMENTUM
    return lambda step: most - (most - least) * height(min(max(step, front), end - 1))


def set_momentum(group: dict[str, Any], value: float) -> None:
    """Set a parameter group's momentum (SGD) or first beta (Adam and its variants)."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


# --- plateau, SWA -------------------------------------------------------------------------------------------


def create_plateau(settings: Train, sign: int) -> ReduceLROnPlateau:
    """ReduceLROnPlateau (PyTorch's own), acting on a fraction of 1 instead of a rate.

    Any improvement counts (threshold 0), and the fraction never falls below the minimum.
    """
    share = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    return ReduceLROnPlateau(
        share,
        mode="max" if sign > 0 else "min",
        factor=settings.lr_decay or DROP,
        patience=settings.plateau_patience or PLATEAU_PATIENCE,
        threshold=0.0,
        min_lr=settings.min_lr / settings.lr,
        eps=0.0,
    )


def swa_start(settings: Train) -> int:
    """Number of epochs before the first one whose weights SWA averages."""
    return math.floor(settings.swa.start * settings.epochs)


def swa_rate(share: _Shape, settings: Train, steps_per_epoch: int) -> _Shape:
    """SWA learning rate: constant from the start of SWA on, after linear annealing (Izmailov et al. 2018)."""
    start, rate = swa_start(settings) * steps_per_epoch, settings.swa.lr / settings.lr
    anneal = (settings.swa.anneal_epochs or 0) * steps_per_epoch

    def with_swa(step: int) -> float:
        if step < start:
            return share(step)
        along = min(1.0, (step - start) / anneal) if anneal else 1.0
        return (1 - along) * share(start) + along * rate

    return with_swa
