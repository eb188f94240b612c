"""Successive halving for a sweep: all points on all pairs if time allows, else fewer points on more pairs."""

from __future__ import annotations

import math
from typing import NamedTuple

from src.commands.budget import FEWEST_PAIRS, SHORTEST, WANTED, Cost
from src.config import UserError


class Rung(NamedTuple):
    """A rung of successive halving: the best `points` and the base, on `rounds` more rounds of pairs."""

    points: int
    rounds: int


def plan_rungs(cost: Cost, points: int, epochs: int, rounds: int, minutes: float) -> tuple[int, list[Rung]]:
    """The epochs and the rungs of a sweep over `points`, with at most `rounds` rounds of pairs.

    One rung, the whole grid, if each point gets four pairs at full length. Else successive halving (Jamieson,
    Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter Optimization): all rungs cost
    about the same, and the better half of the points continues on more pairs. Epochs are reduced, to at least
    a quarter, before points are left out. Raises `UserError` if two points on two pairs do not fit.
    """
    shortest = math.ceil(SHORTEST * epochs)
    for chosen in range(epochs, shortest - 1, -1):
        budget = int(60 * minutes / cost.of(chosen) + 1e-9)  # in rounds of one point
        grid = min(rounds, budget // (points + 1))
        if grid * cost.width >= min(WANTED, rounds * cost.width):
            return chosen, [Rung(points, grid)]
        rungs = halving(points, budget, rounds)
        if rungs:
            return chosen, rungs
    budget = int(60 * minutes / cost.of(shortest) + 1e-9)
    for some in range(points - 1, 1, -1):
        rungs = halving(some, budget, rounds)
        if rungs and sum(rung.rounds for rung in rungs) * cost.width >= min(
            FEWEST_PAIRS, rounds * cost.width
        ):
            return shortest, rungs
    needed = math.ceil(3 * math.ceil(FEWEST_PAIRS / cost.width) * cost.of(shortest) / 60)
    raise UserError(
        f"MINUTES={minutes:g} is too short: two points and the base on {FEWEST_PAIRS} pairs of {shortest} "
        f"epochs take about {needed} minutes; give MINUTES={needed}"
    )


def halving(points: int, budget: int, rounds: int) -> list[Rung]:
    """The rungs of successive halving from `points` down to two; empty if they do not fit the budget.

    `budget` counts rounds of one point. Each rung gets an equal share of what is left, at least one round,
    and includes the base. At most `rounds` rounds in total.
    """
    count = max(1, math.ceil(math.log2(points)))
    rungs: list[Rung] = []
    for k in range(count):
        size = math.ceil(points / 2**k)
        more = min(rounds, max(1, budget // ((count - k) * (size + 1))))
        if more:
            rungs.append(Rung(size, more))
        budget, rounds = budget - (size + 1) * more, rounds - more
    return rungs if budget >= 0 else []
