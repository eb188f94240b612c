"""Keeping to the time: what is left out, and when, so that a kernel ends before Kaggle ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SAFE = 0.9  # of the time; reading and writing take some too, and the machine may slow down


@dataclass(frozen=True)
class Plan:
    """How much of what was trained is used: a share of the folds' models, and all views or the first
    alone."""

    folds: float = 1.0
    all_views: bool = True

    def models(self, count: int) -> int:
        """Of so many models of a member."""
        return max(1, round(self.folds * count))

    def cost(self, folds: int, views: int) -> float:
        """Images looked at for each test image."""
        return self.models(folds) * (views if self.all_views else 1)

    def __str__(self) -> str:
        views = "all views" if self.all_views else "one view"
        folds = {1.0: "all folds", 0.0: "one fold"}.get(self.folds, f"{self.folds:.0%} of the folds")
        return f"{views}, {folds}"


PLANS = (Plan(), Plan(1.0, False), Plan(0.6, False), Plan(0.3, False), Plan(0.0, False))  # views go first


class Guard:
    """Measures seconds an image and says which plan still fits into `seconds` from now."""

    def __init__(self, seconds: float, folds: int, views: int, clock: Callable[[], float] = time.monotonic):
        self.clock, self.end = clock, clock() + SAFE * seconds
        self.folds, self.views = folds, views
        self.plan, self.pace = PLANS[0], 0.0  # pace: seconds a look, of the last piece

    def saw(self, images: int, seconds: float) -> None:
        """So many images took so long under the present plan."""
        self.pace = seconds / max(1, images) / self.plan.cost(self.folds, self.views)

    def next(self, left: int) -> Plan:
        """The plan for what is left: the present one, or the first after it whose images would all be
        seen."""
        time_left = self.end - self.clock()
        for plan in PLANS[PLANS.index(self.plan) :]:
            if left * self.pace * plan.cost(self.folds, self.views) <= time_left:
                break
        if plan != self.plan:
            print(f"guard: {left:,} images left and {time_left:,.0f} s: going on with {plan}", flush=True)
        self.plan = plan
        return plan
