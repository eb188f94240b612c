"""The time guard of a kernel: it reduces views, then folds, so that the run ends before Kaggle's time limit.

Reading the images and running each member's networks are timed separately, because a cheaper plan saves only
network time. The clock is checked before every image that is read and after every batch. Near the time limit
the remaining rows keep the prior.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SAFE = 0.9  # the share of the time that is planned with: the machine may slow down
STEP, LEAST = 0.05, 5.0  # a piece's share of the remaining time, and its minimum in seconds


class OutOfTime(Exception):
    """No further image can be predicted before the time limit."""


@dataclass(frozen=True)
class Load:
    """The workload of one fold of one member: its device, its number of networks and the views per image."""

    member: int
    fold: int
    device: int
    networks: int
    views: int


@dataclass(frozen=True)
class InferencePlan:
    """A reduction of the inference: a share of each member's folds, and all TTA views or only the first."""

    folds: float = 1.0
    all_views: bool = True

    def models(self, count: int) -> int:
        """The number of folds that are used of `count` folds of a member."""
        return max(1, round(self.folds * count))

    def looks(self, load: Load, count: int) -> int:
        """The number of forward passes per image for one fold of a member that has `count` folds."""
        used = load.fold < self.models(count)
        return used * load.networks * (load.views if self.all_views else 1)

    def __str__(self) -> str:
        views = "all views" if self.all_views else "one view"
        folds = {1.0: "all folds", 0.0: "one fold"}.get(self.folds, f"{self.folds:.0%} of the folds")
        return f"{views}, {folds}"


PLANS = (
    InferencePlan(),
    InferencePlan(1.0, False),
    InferencePlan(0.6, False),
    InferencePlan(0.3, False),
    InferencePlan(0.0, False),
)  # the number of views is reduced before the number of folds


@dataclass
class Pace:
    """A running average of the seconds per unit of work; with `decay` below 1 older measurements count
    less."""

    decay: float = 0.5
    seconds: float = 0.0
    units: float = 0.0

    def add(self, seconds: float, units: float) -> None:
        """Record that so many units of work took so many seconds."""
        self.seconds = self.decay * self.seconds + seconds
        self.units = self.decay * self.units + units

    @property
    def each(self) -> float:
        """Seconds per unit; 0 before the first measurement."""
        return self.seconds / self.units if self.units else 0.0


class Guard:
    """Measures the seconds per image and decides which plan fits into `seconds` from now, how many images to
    take at a time, and when to stop."""

    def __init__(
        self,
        seconds: float,
        loads: Sequence[Load],
        clock: Callable[[], float] = time.monotonic,
        decay: float = 0.5,
    ):
        self.clock, self.loads, self.decay = clock, tuple(loads), decay
        self.planned, self.end = clock() + SAFE * seconds, clock() + seconds
        self.folds = {load.member: sum(one.member == load.member for one in loads) for load in loads}
        self.plan = PLANS[0]
        self.largest = 0  # the largest number of images that were in memory together
        self.writing = 0.0  # seconds to write the whole test set's rows once it is predicted
        self.last = threading.local()
        self.forget()

    def forget(self) -> None:
        """Restart the measurement, because the first images are slower than the others."""
        self.longest = 0.0  # seconds between two checks of the clock
        self.reading, self.networks = Pace(self.decay), {m: Pace(self.decay) for m in self.folds}

    # --- measurements ---------------------------------------------------------------------------------------

    def saw(self, images: int, seconds: float) -> None:
        """Record the time of everything except the networks for so many images."""
        self.reading.add(seconds, images)
        self.largest = max(self.largest, images)

    def looked(self, member: int, fold: int, images: int, seconds: float) -> None:
        """Record the network time of one fold of a member for so many images under the current plan."""
        load = next(one for one in self.loads if (one.member, one.fold) == (member, fold))
        self.networks[member].add(seconds, images * self.plan.looks(load, self.folds[member]))

    def step(self, seconds: float) -> None:
        """Record the duration of a step that cannot be interrupted."""
        self.longest = max(self.longest, seconds)

    def tick(self) -> None:
        """Check the clock. Raises `OutOfTime` if the work before the next check might end too late."""
        now = self.clock()
        self.step(now - getattr(self.last, "time", now))  # per thread: others check the clock too
        self.last.time = now
        if now + 2 * self.longest + self.writing > self.end:
            raise OutOfTime

    # --- decisions ------------------------------------------------------------------------------------------

    def busiest(self, plan: InferencePlan) -> float:
        """Network seconds per image on the device with the largest workload."""
        spent: dict[int, float] = {}
        for load in self.loads:
            seconds = self.networks[load.member].each * plan.looks(load, self.folds[load.member])
            spent[load.device] = spent.get(load.device, 0.0) + seconds
        return max(spent.values())

    def cost(self, plan: InferencePlan) -> float:
        """Total seconds per image."""
        return self.reading.each + self.busiest(plan)

    def size(self, left: int, most: int, batch: int) -> int:
        """The number of remaining images to process next, at most `most`; whole batches if they fit."""
        budget = max(LEAST, STEP * (self.end - self.clock()))
        fit = min(most, int(budget / max(self.cost(self.plan), 1e-9)))
        fit = fit // batch * batch if fit >= batch else max(1, fit)
        return min(left, fit)

    def next(self, left: int) -> InferencePlan:
        """Choose the plan for the remaining images: the current one, or the first cheaper one that finishes
        in time. If none does, it is the cheapest one."""
        time_left = self.planned - self.clock() - self.writing
        for plan in PLANS[PLANS.index(self.plan) :]:
            if left * self.cost(plan) <= time_left:
                break
        if plan != self.plan:
            print(f"guard: {left:,} images left and {time_left:,.0f} s: going on with {plan}", flush=True)
        self.plan = plan
        return plan
