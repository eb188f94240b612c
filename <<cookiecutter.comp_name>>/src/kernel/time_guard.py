"""Keeping to the time: what is left out, and when, so that a kernel ends before Kaggle ends it.

Reading the images and each member's networks are timed apart, for a plan saves the networks' time alone. The
clock is looked at before every image that is read and after every batch; near the end the rows that are left
keep the prior.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SAFE = 0.9  # of the time is planned with: the machine may slow down
STEP, LEAST = 0.05, 5.0  # a piece of the images takes this share of the time left, or so many seconds


class OutOfTime(Exception):
    """No further image can be predicted before the end."""


@dataclass(frozen=True)
class Load:
    """One fold of one member: the device that its networks lie on, how many they are, and the views of an
    image."""

    member: int
    fold: int
    device: int
    networks: int
    views: int


@dataclass(frozen=True)
class InferencePlan:
    """How much of what was trained is used: a share of each member's folds, and all views or the first
    alone."""

    folds: float = 1.0
    all_views: bool = True

    def models(self, count: int) -> int:
        """Of so many folds of a member."""
        return max(1, round(self.folds * count))

    def looks(self, load: Load, count: int) -> int:
        """Forward passes of an image in one fold of a member that has `count` of them."""
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
)  # views go first


@dataclass
class Pace:
    """Seconds a unit of work, over all of it; with `decay` below 1 what is longer ago counts less."""

    decay: float = 0.5
    seconds: float = 0.0
    units: float = 0.0

    def add(self, seconds: float, units: float) -> None:
        self.seconds = self.decay * self.seconds + seconds
        self.units = self.decay * self.units + units

    @property
    def each(self) -> float:
        return self.seconds / self.units if self.units else 0.0


class Guard:
    """Measures seconds an image, and says which plan still fits into `seconds` from now, how many images may
    be taken on at a time, and when to stop."""

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
        self.largest = 0  # images that were held together
        self.writing = 0.0  # seconds that the whole test set takes once it is predicted
        self.last = threading.local()
        self.forget()

    def forget(self) -> None:
        """Measure anew: the first images are slower than the others."""
        self.longest = 0.0  # seconds between two looks at the clock
        self.reading, self.networks = Pace(self.decay), {m: Pace(self.decay) for m in self.folds}

    # --- what is measured -----------------------------------------------------------------------------------

    def saw(self, images: int, seconds: float) -> None:
        """All but the networks took so many seconds for so many images."""
        self.reading.add(seconds, images)
        self.largest = max(self.largest, images)

    def looked(self, member: int, fold: int, images: int, seconds: float) -> None:
        """One fold of a member took so long for so many images under the present plan."""
        load = next(one for one in self.loads if (one.member, one.fold) == (member, fold))
        self.networks[member].add(seconds, images * self.plan.looks(load, self.folds[member]))

    def step(self, seconds: float) -> None:
        """Something that cannot be interrupted took so long."""
        self.longest = max(self.longest, seconds)

    def tick(self) -> None:
        """Look at the clock; raises `OutOfTime` where what comes before the next look might end too late."""
        now = self.clock()
        self.step(now - getattr(self.last, "time", now))  # of this thread: others look in between
        self.last.time = now
        if now + 2 * self.longest + self.writing > self.end:
            raise OutOfTime

    # --- what follows from it -------------------------------------------------------------------------------

    def busiest(self, plan: InferencePlan) -> float:
        """Seconds an image that the device with the most to do spends in networks."""
        spent: dict[int, float] = {}
        for load in self.loads:
            seconds = self.networks[load.member].each * plan.looks(load, self.folds[load.member])
            spent[load.device] = spent.get(load.device, 0.0) + seconds
        return max(spent.values())

    def cost(self, plan: InferencePlan) -> float:
        """Seconds an image."""
        return self.reading.each + self.busiest(plan)

    def size(self, left: int, most: int, batch: int) -> int:
        """How many of the images left to take on next, at most `most`: whole batches, where they fit."""
        budget = max(LEAST, STEP * (self.end - self.clock()))
        fit = min(most, int(budget / max(self.cost(self.plan), 1e-9)))
        fit = fit // batch * batch if fit >= batch else max(1, fit)
        return min(left, fit)

    def next(self, left: int) -> InferencePlan:
        """The plan for what is left: the present one, or the first after it whose images would all be
        seen."""
        time_left = self.planned - self.clock() - self.writing
        for plan in PLANS[PLANS.index(self.plan) :]:
            if left * self.cost(plan) <= time_left:
                break
        if plan != self.plan:
            print(f"guard: {left:,} images left and {time_left:,.0f} s: going on with {plan}", flush=True)
        self.plan = plan
        return plan
