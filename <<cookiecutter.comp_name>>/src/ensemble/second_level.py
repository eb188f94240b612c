"""Candidates of a stack, one function per kind of prediction: from the members' predictions to each
candidate's OOF and test predictions.

Every kind has `mean` and `best single`. Numbers also have the blenders of `stack.blenders`, see blenders/.
Maps have `weights` per member and class and `lightgbm` over pixels, see pixels.py. Rankings have `lightgbm`
over (query, candidate) pairs, see pairs.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from src.config import Stack
from src.decisions import assemble, take_rows
from src.ensemble.attenuation import variance_between_folds
from src.ensemble.blenders import fitter
from src.ensemble.blenders.base import LevelData, apply_blender, fit_blender, nested_oof
from src.ensemble.features import StackFeatures
from src.inference.average import takes_ranks
from src.maps import Maps
from src.tasks.base import Task

NEIGHBOURS = 3  # the smallest number of outputs with one that has two neighbours


@dataclass(frozen=True)
class Members:
    """The members' predictions in one row order, with the targets of the OOF rows."""

    names: list[str]
    oof: Any  # (M, N, C) for numbers, otherwise a list
    test: Any
    truth: Any  # in the metric's format
    targets: np.ndarray | None  # output of `Task.encode`, for numbers only
    fold: np.ndarray
    features: StackFeatures | None = None
    extra: tuple[np.ndarray, np.ndarray] | None = None  # feature values (N, F) and (T, F)
    of_folds: list[np.ndarray] = field(default_factory=list)  # see `tables.read_fold_predictions`


@dataclass(frozen=True)
class Candidates:
    """Each candidate's OOF and test predictions, and what is stored and reported about them."""

    oof: dict[str, Any]
    test: dict[str, Any]
    stored: dict[str, Any]  # JSON from which the fitted candidates are restored
    shown: dict[str, Any] = field(default_factory=dict)  # extra fields of metrics.json
    left_out: dict[str, str] = field(default_factory=dict)  # blenders that do not apply, with the reason
    noise: dict[str, np.ndarray] = field(default_factory=dict)  # (C,) per candidate, see attenuation.py


def number_candidates(task: Task, members: Members, settings: Stack, seed: int) -> Candidates:
    """The mean and every blender that applies to this task. OOF predictions are nested (each fold by a
    blender fitted on the other folds); test predictions come from a blender fitted on all rows."""
    left_out = {
        name: why for name in settings.blenders if (why := _why_not(name, task, members.oof.shape[2]))
    }
    if "xgboost" in settings.blenders:
        from src.ensemble.blenders.xgboost import library

        library()  # fail early if it is missing, before the others are fitted
    level = level_data(task, members, settings, seed)
    asked = level.but(oof=members.test, extra=None if members.extra is None else members.extra[1])
    oof, test, fitted, noise = {}, {}, {}, {}
    parts = [asked.but(oof=part, extra=_first(asked.extra, part.shape[1])) for part in members.of_folds]
    for name in ("mean", *(name for name in settings.blenders if name not in left_out)):
        oof[name] = nested_oof(fitter(name), level)
        fitted[name] = fit_blender(fitter(name), level, np.arange(len(level.fold)))
        test[name] = apply_blender(fitted[name], asked, np.arange(members.test.shape[1]))
        if parts:
            rows = np.arange(parts[0].oof.shape[1])
            noise[name] = variance_between_folds([apply_blender(fitted[name], part, rows) for part in parts])
    shown: dict[str, Any] = {}
    if "hill_climbing" in fitted:
        weights = fitted["hill_climbing"].weights.round(4).tolist()
        shown["weights"] = dict(zip(members.names, weights, strict=True))
    if "lightgbm" in fitted:
        names = [*members.names, *(members.features.names if members.features is not None else ())]
        gain = fitted["lightgbm"].gain(len(names)).round(3).tolist()  # without the class column at the end
        shown["boosting_rounds"] = list(fitted["lightgbm"].rounds)
        shown["importance"] = dict(zip(names, gain, strict=True))
    stored = {
        "kind": task.stacking,
        "blenders": {name: one.as_json() for name, one in fitted.items()},
        "features": None if members.features is None else members.features.as_json(),
    }
    return Candidates(oof, test, stored, shown, left_out, noise)


def _first(extra: np.ndarray | None, rows: int) -> np.ndarray | None:
    return None if extra is None else extra[:rows]


def level_data(task: Task, members: Members, settings: Stack, seed: int) -> LevelData:
    """All OOF rows as training data of a second level."""
    return LevelData(
        oof=members.oof,
        targets=members.targets,
        fold=members.fold,
        kind=task.stacking,
        settings=settings,
        seed=seed,
        extra=None if members.extra is None else members.extra[0],
        categories=() if members.features is None else members.features.categories,
        metric=task.metric,
        truth=members.truth,
    )


def _why_not(name: str, task: Task, outputs: int) -> str | None:
    """The reason why a blender does not apply to a task, or None."""
    if name == "rank_mean" and not takes_ranks(task.metric, task.name):
        return f"ranks keep the order of each column alone, and {task.metric.name} asks for more"
    if name == "cnn" and outputs < NEIGHBOURS:
        return f"it looks at neighbouring outputs, and there are {outputs}; mlp does the same here"
    return None


def map_candidates(task: Task, members: Members, settings: Stack, seed: int) -> Candidates:
    """Candidates for maps: hill-climbing weights per member and class, each fold's weights found on the other
    folds, and LightGBM over sampled pixels."""
    from src.ensemble import pixels

    fold, metric, parts = members.fold, task.metric, []
    for k in np.unique(fold):
        others, own = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        weights = pixels.hill_climb(members.oof, members.truth, others, metric, seed=seed)
        parts.append((own, Maps.weighted([take_rows(one, own) for one in members.oof], weights)))
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


def ranking_candidates(task: Task, members: Members, settings: Stack, seed: int) -> Candidates:
    """Candidates for rankings: the mean, and LightGBM over (query, candidate) pairs."""
    from src.ensemble import pairs

    stacked, rounds = pairs.stack_pairs(members.oof, members.truth, members.fold, settings, seed)
    stacker = pairs.fit_pairs(members.oof, members.truth, settings, seed, rounds)
    gain = stacker.gain().reshape(2, -1).sum(0).round(3).tolist()  # similarity plus margin per member
    return Candidates(
        {"mean": task.mean(members.oof), "lightgbm": stacked},
        {"mean": task.mean(members.test), "lightgbm": pairs.apply_pairs(stacker, members.test)},
        {**stacker.as_json(), "candidates": task.candidates},
        {"boosting_rounds": rounds, "importance": dict(zip(members.names, gain, strict=True))},
    )


CANDIDATES_BY_KIND = {"numbers": number_candidates, "maps": map_candidates, "rankings": ranking_candidates}
