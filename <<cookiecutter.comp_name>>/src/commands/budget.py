"""Time budget: how many pairs of fold and seed, and how many epochs, fit into the given minutes."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from src.artifacts import Step, write_json
from src.commands.trials import BASE, Change, Pair, Trials, pairs_in_batches
from src.config import UserError
from src.reading import NUMBER, decoding, read_csv, read_json

WANTED = 4  # pairs; fewer give a poor standard error, so epochs are cut first
FEWEST_PAIRS = 2  # pairs; one has no standard error
SEEDS = 3  # at most; the folds stay the same, so more seeds measure only the seed's effect
SHORTEST = 0.25  # share of epochs; in fewer, a trick that needs long training shows nothing


@dataclass(frozen=True)
class Cost:
    """Cost in seconds of `width` parallel trainings of the experiment, on pairs of one seed."""

    epoch: float
    rest: float  # paid once per training: loading, building, predicting with all views
    width: int

    def of(self, epochs: int) -> float:
        """Seconds of `width` parallel trainings of `epochs` epochs, including the predictions."""
        return self.rest + epochs * self.epoch


@dataclass(frozen=True)
class ExperimentPlan:
    """What to train: each change on these pairs, for `epochs` of the experiment's `of_epochs` epochs."""

    epochs: int
    of_epochs: int
    pairs: tuple[Pair, ...]
    cost: Cost

    @property
    def share(self) -> float:
        """The share of the experiment's epochs that is trained, at most 1."""
        return self.epochs / self.of_epochs

    def say(self, changes: int, minutes: float) -> str:
        """The plan as one sentence."""
        rounds = len(list(pairs_in_batches(list(self.pairs), self.cost.width)))
        about = (1 + changes) * rounds * self.cost.of(self.epochs) / 60
        return (
            f"{changes} to try beside the base, {said_pairs(self.pairs)}, {self.epochs} of {self.of_epochs} "
            f"epochs: {(1 + changes) * len(self.pairs)} trainings, about {about:.3g} of {minutes:g} minutes"
        )

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ExperimentPlan:
        """The plan from the values of `as_json`."""
        pairs = tuple(Pair(*pair) for pair in stored["pairs"])
        return cls(stored["epochs"], stored["of_epochs"], pairs, Cost(**stored["cost"]))


def said_pairs(pairs: tuple[Pair, ...] | list[Pair]) -> str:
    """The pairs as text: `4 pairs (folds 0 1 2 3, seed 42)`."""
    folds, seeds = (sorted({pair[i] for pair in pairs}) for i in (0, 1))
    names = " ".join(map(str, folds)), " ".join(map(str, seeds))
    return (
        f"{len(pairs)} pair{'s' * (len(pairs) != 1)} (fold{'s' * (len(folds) != 1)} {names[0]}, "
        f"seed{'s' * (len(seeds) != 1)} {names[1]})"
    )


def all_pairs(folds: tuple[int, ...], seed: int) -> list[Pair]:
    """All candidate pairs: every fold with the experiment's own seed, then with each further seed."""
    return [Pair(fold, seed + more) for more in range(SEEDS) for fold in folds]


def plan_pairs(cost: Cost, changes: int, epochs: int, pairs: list[Pair], minutes: float) -> ExperimentPlan:
    """Choose epochs and pairs that fit the minutes; `pairs` are all candidate pairs, in their order.

    Full-length trainings if four pairs per change fit; else fewer epochs, at least a quarter, so that four
    fit; then as many pairs as fit. Raises `UserError` if two pairs do not fit.
    """
    wanted, parts = min(WANTED, len(pairs)), list(pairs_in_batches(pairs, cost.width))

    def fitting(of_epochs: int) -> list[Pair]:
        rounds = int(60 * minutes / ((1 + changes) * cost.of(of_epochs)) + 1e-9)
        return [pair for part in parts[:rounds] for pair in part]

    shortest = math.ceil(SHORTEST * epochs)
    long_enough = (e for e in range(epochs, shortest - 1, -1) if len(fitting(e)) >= wanted)
    chosen = next(long_enough, shortest)
    chosen_pairs = fitting(chosen)
    if len(chosen_pairs) < min(FEWEST_PAIRS, len(pairs)):
        needed = (1 + changes) * math.ceil(FEWEST_PAIRS / cost.width) * cost.of(shortest) / 60
        raise UserError(
            f"MINUTES={minutes:g} is too short: {FEWEST_PAIRS} pairs of {1 + changes} trainings of "
            f"{shortest} epochs take about {math.ceil(needed)} minutes; give MINUTES={math.ceil(needed)}, "
            f"or try fewer"
        )
    return ExperimentPlan(chosen, epochs, tuple(chosen_pairs), cost)


def measure_cost(trials: Trials, folder: Any) -> Cost:
    """Measure the cost by training the experiment for two epochs on as many folds as run in parallel.

    The result is kept in `cost.json`. The first epoch includes one-time set-up, so the last one is used.
    """
    short = replace(trials, share=min(1.0, 2 / trials.config.train.epochs))
    width = _width(trials)
    step = Step(
        title=f"{trials.kind} {trials.config.name}: seconds an epoch",
        folder=folder,
        outputs=("cost.json",),
        recipe={"settings": trials.mark(short.configured(BASE, trials.seed)), "width": width},
        stamp_name="cost",
    )
    if step.begin():
        import src.inference.oof
        import src.training.launch  # noqa: F401  imported once, so not part of a training's cost

        pairs = [Pair(fold, trials.seed) for fold in trials.folds[:width]]
        run, began = short.run(BASE, trials.seed), time.monotonic()
        short.make(BASE, pairs)
        seconds = time.monotonic() - began
        histories = [
            read_csv(run.fold_folder(pair.fold) / "history.csv", ("seconds",))["seconds"] for pair in pairs
        ]
        epoch = max(float(history.iloc[-1]) for history in histories)
        rest = max(0.0, seconds - max(len(history) for history in histories) * epoch)  # 0 for copies
        write_json(step.folder / "cost.json", asdict(Cost(epoch, rest, len(pairs))))
        step.done()
    path = step.folder / "cost.json"
    with decoding(path):
        return Cost(**read_json(path, epoch=NUMBER))


def _width(trials: Trials) -> int:
    """How many trainings run in parallel on this machine."""
    from src.training.devices import devices

    return min(len(devices(trials.config)), len(trials.folds))


class TimeBudget:
    """The remaining minutes; a round starts only if one as long as the last one still fits."""

    def __init__(self, minutes: float):
        self.end, self.last = time.monotonic() + 60 * minutes, 0.0

    def round(self, trials: Trials, changes: list[Change], pairs: list[Pair]) -> bool:
        """Train these pairs of every change; returns False, with nothing started, if the time is up.

        The first round with something to train always runs.
        """
        missing = [c for c in changes if c not in trials.failed and not trials.done(c, pairs)]
        began = time.monotonic()
        if missing and self.last and began + self.last > self.end:
            return False
        for change in missing:
            trials.make(change, pairs)
        self.last = time.monotonic() - began if missing else self.last
        return True
