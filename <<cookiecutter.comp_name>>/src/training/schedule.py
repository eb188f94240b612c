"""The learning rate over time, as a share of the peak at each optimiser step.

    peak |  frozen backbone ----+      +--- hold ---+ the schedule's own shape
         |                      |    /              |   ...
         +----------------------+--/ warm-up -------+----------------------->

Shapes are closed forms of the step, so that a resumed training needs its number alone, and shares of each
group's own peak, so that layers with lower rates keep their distance. torch's schedulers build each rate from
the last one, know one floor for all groups, and some rise again or raise past the end; the tests hold ours
against them. A plateau is watched by torch's own.
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

_Shape = Callable[[int], float]  # an optimiser step, 0 first -> share of the peak rate

DROP = 0.1  # of step and plateau, where train.lr_decay is null
INVERSE_RATE = 0.5  # an epoch: 15 epochs end at a ninth
PLATEAU_PATIENCE = 4
RISE, LOW, MOMENTUM = 0.3, 1 / 25, (0.95, 0.85)  # of one cycle: share of the steps, first rate, momentum


class Schedule:
    """Sets the rate of every group of an optimiser: `step()` after each of its steps, `look(score)` after
    each look at the stopping rows. A group's peak is the rate it had when the schedule was made."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, settings: Train, steps_per_epoch: int, sign: int = 1
    ):
        """`sign` is 1 where a higher score is better and -1 where a lower one is."""
        self.optimizer, self.done = optimizer, 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.share = create_curve(settings, steps_per_epoch)
        self.momentum = one_cycle_momentum(settings, steps_per_epoch)
        self.plateau = create_plateau(settings, sign) if settings.schedule == "plateau" else None
        self._set()

    @property
    def rate(self) -> float:
        """The highest rate of any group, which is the head's."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def step(self) -> None:
        """Move on by one optimiser step."""
        self.done += 1
        self._set()

    def look(self, score: float) -> None:
        """Take in the score of the stopping rows, which a plateau waits on."""
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
    """The share of the peak at every step: 1 while the backbone is frozen, in a line up to where the schedule
    starts (Goyal et al. 2017, Accurate, Large Minibatch SGD), a hold there, the schedule; past the last step
    it stays. Then SWA's own rate, where it has one."""
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
    """Steps with a frozen backbone, of warm-up, and of hold; one step at least is left after them."""
    left = settings.epochs * steps_per_epoch - 1
    steps = []
    for epochs in (settings.freeze_epochs, settings.warmup_epochs, settings.hold_epochs):
        steps.append(min(round((epochs or 0) * steps_per_epoch), left))
        left -= steps[-1]
    return tuple(steps)


def cycle_ends(settings: Train) -> list[int]:
    """The epochs that cosine cycles end with, the last of all being the last of these. Cycles differ by one
    epoch at most, so that each end can be looked at, and kept."""
    front = sum(front_of(settings, 1000)) / 1000
    each = (settings.epochs - front) / (settings.cycles or 1)
    return [math.floor(front + each * number + 0.5) for number in range(1, (settings.cycles or 1) + 1)]


# --- shapes: (settings, steps an epoch, first step, end) -> the share at each of these steps ----------------


def constant(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """The peak."""
    return lambda step: 1.0


def cosine(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """Down along a cosine to the floor, again from each restart on (Loshchilov, Hutter 2017, SGDR)."""
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
    """From each of `train.steps` on the rate of `train.step_lrs`, or a factor of the one before."""
    edges = [round(epoch * steps_per_epoch) for epoch in settings.steps]
    if settings.step_lrs is not None:
        shares = [1.0, *(rate / settings.lr for rate in settings.step_lrs)]
    else:
        floor, factor = settings.min_lr / settings.lr, settings.lr_decay or DROP
        shares = [max(floor, factor**number) for number in range(len(edges) + 1)]
    return lambda step: shares[bisect_right(edges, step)]


def piecewise(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """In lines from the peak through `train.step_lrs` at `train.steps`, and on at the last of them."""
    edges = [front, *(epoch * steps_per_epoch for epoch in settings.steps)]
    shares = [1.0, *(rate / settings.lr for rate in settings.step_lrs)]
    return lambda step: float(np.interp(step, edges, shares))


def exponential(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """A factor an epoch, by default that which ends at the floor."""
    floor = settings.min_lr / settings.lr
    if settings.lr_decay is None:
        factor = floor ** (1 / max(1, end - 1 - front))  # a step
    else:
        factor = settings.lr_decay ** (1 / steps_per_epoch)
    return lambda step: max(floor, factor ** (step - front))


def inverse_time(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """1 / (1 + k * epochs) (Robbins, Monro 1951, A Stochastic Approximation Method)."""
    floor, k = settings.min_lr / settings.lr, settings.lr_decay or INVERSE_RATE
    return lambda step: max(floor, 1 / (1 + k * (step - front) / steps_per_epoch))


def one_cycle(settings: Train, steps_per_epoch: int, front: int, end: int) -> _Shape:
    """Up along a cosine from a 25th of the peak, for 30 % of the steps, and down to the floor (Smith 2018, A
    Disciplined Approach to Neural Network Hyper-Parameters)."""
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

# --- one cycle, whose momentum falls while the rate rises ---------------------------------------------------


def peak_of(front: int, end: int) -> float:
    """The step, perhaps between two, at which one cycle peaks."""
    return front + max(0.0, RISE * (end - front) - 1)


def one_cycle_height(front: int, end: int) -> _Shape:
    """0 at the start, 1 at the peak, 0 at the end, by cosines."""
    top = peak_of(front, end)

    def height(step: int) -> float:
        span = max(1.0, top - front if step <= top else end - 1 - top)
        return (1 + math.cos(math.pi * min(1.0, abs(step - top) / span))) / 2

    return height


def one_cycle_momentum(settings: Train, steps_per_epoch: int) -> _Shape | None:
    """Smith's other half of one cycle: less momentum where the rate is high; None for other schedules."""
    if settings.schedule != "onecycle":
        return None
    front, end = sum(front_of(settings, steps_per_epoch)), settings.epochs * steps_per_epoch
    height, (most, least) = one_cycle_height(front, end), MOMENTUM
    return lambda step: most - (most - least) * height(min(max(step, front), end - 1))


def set_momentum(group: dict[str, Any], value: float) -> None:
    """The momentum of SGD, the first beta of the others."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


# --- plateau, SWA -------------------------------------------------------------------------------------------


def create_plateau(settings: Train, sign: int) -> ReduceLROnPlateau:
    """torch's own, over a share of 1 in place of a rate: any gain counts, and it falls to the floor at
    most."""
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
    """Epochs before the first whose weights are averaged."""
    return math.floor(settings.swa.start * settings.epochs)


def swa_rate(share: _Shape, settings: Train, steps_per_epoch: int) -> _Shape:
    """From SWA's start on its own constant rate, reached in a line (Izmailov et al. 2018)."""
    start, rate = swa_start(settings) * steps_per_epoch, settings.swa.lr / settings.lr
    anneal = (settings.swa.anneal_epochs or 0) * steps_per_epoch

    def with_swa(step: int) -> float:
        if step < start:
            return share(step)
        along = min(1.0, (step - start) / anneal) if anneal else 1.0
        return (1 - along) * share(start) + along * rate

    return with_swa
