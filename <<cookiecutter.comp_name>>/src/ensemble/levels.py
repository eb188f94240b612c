"""The candidates of a stack, a function a kind of prediction: members' predictions in, each candidate's OOF
and test predictions out.

`mean` and `best single` are there for every kind. Beside them: `lightgbm` (numbers, see boosting.py; pixels,
see pixels.py; pairs of query and candidate, see pairs.py), and for maps `weights`, one a member and class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from src.config import Stack
from src.decisions import assemble, take
from src.ensemble import boosting, pairs, pixels
from src.maps import Maps
from src.tasks.base import Task


@dataclass(frozen=True)
class Members:
    """The members' predictions in one row order, with what is true of the OOF rows."""

    names: list[str]
    oof: list[Any]
    test: list[Any]
    truth: Any  # as the metric wants it
    targets: np.ndarray | None  # as `Task.encode` gives them, for numbers
    fold: np.ndarray


@dataclass(frozen=True)
class Candidates:
    """What the second levels made of the members, and what of them is stored and shown."""

    oof: dict[str, Any]
    test: dict[str, Any]
    stored: dict[str, Any]  # JSON from which the fitted ones can be applied again
    shown: dict[str, Any] = field(default_factory=dict)  # for metrics.json


def numbers(task: Task, members: Members, settings: Stack, seed: int) -> Candidates:
    """LightGBM over the outputs."""
    oof, test = np.stack(members.oof).astype(np.float64), np.stack(members.test).astype(np.float64)
    kind = task.stacking
    stacked, rounds = boosting.stack_oof(oof, members.targets, members.fold, kind, settings, seed)
    stacker = boosting.fit(oof, members.targets, kind, settings, seed, rounds)
    gain = stacker.gain().round(3).tolist()
    return Candidates(
        {"mean": oof.mean(0), "lightgbm": stacked},
        {"mean": test.mean(0), "lightgbm": stacker.apply(test)},
        stacker.as_json(),
        {"boosting_rounds": rounds, "importance": dict(zip(members.names, gain, strict=True))},
    )


def maps(task: Task, members: Members, settings: Stack, seed: int) -> Candidates:
    """Weights a member and class by hill climbing, each fold's found on the other folds; and LightGBM over
    sampled pixels."""
    fold, metric, parts = members.fold, task.metric, []
    for k in np.unique(fold):
        others, own = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        weights = pixels.hill_climb(members.oof, members.truth, others, metric, seed=seed)
        parts.append((own, Maps.weighted([take(one, own) for one in members.oof], weights)))
    weights = pixels.hill_climb(members.oof, members.truth, np.arange(len(fold)), metric, seed=seed)
    stacked, rounds = pixels.stack_pixels(members.oof, members.truth, fold, settings, seed)
    stacker = pixels.fit_pixels(members.oof, members.truth, settings, seed, rounds)
    return Candidates(
        {"mean": Maps.mean(members.oof), "weights": assemble(parts), "lightgbm": stacked},
        {
            "mean": Maps.mean(members.test),
            "weights": Maps.weighted(members.test, weights),
            "lightgbm": stacker.apply(members.test),
        },
        {**stacker.as_json(), "weights": weights.tolist()},
        {
            "boosting_rounds": rounds,
            "weights": dict(zip(members.names, weights.round(4).tolist(), strict=True)),
        },
    )


def rankings(task: Task, members: Members, settings: Stack, seed: int) -> Candidates:
    """LightGBM over pairs of a query and a candidate."""
    stacked, rounds = pairs.stack_pairs(members.oof, members.truth, members.fold, settings, seed)
    stacker = pairs.fit_pairs(members.oof, members.truth, settings, seed, rounds)
    gain = stacker.gain().reshape(2, -1).sum(0).round(3).tolist()  # similarity and lead of each
    return Candidates(
        {"mean": task.mean(members.oof), "lightgbm": stacked},
        {"mean": task.mean(members.test), "lightgbm": pairs.apply_pairs(stacker, members.test)},
        stacker.as_json(),
        {"boosting_rounds": rounds, "importance": dict(zip(members.names, gain, strict=True))},
    )


KINDS = {"numbers": numbers, "maps": maps, "rankings": rankings}
