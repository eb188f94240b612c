"""Stage 05: LightGBM over the members' OOF tables, against their plain mean and the best single run.

The stacker sees one example a (row, class): the members' log-odds of that class, and the answer is whether it
is the row's class. It may only rise with each member's own opinion. Both are there for honesty as much as for
small data: a free level-2 model learns that OOF predictions lean away from their own fold's labels, and
scores .53 to .54 AUC on pure noise under cross-validation on the same folds; this one stays at .50 within its
error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd

from src.artifacts import Step, write_json, write_parquet, write_text
from src.config import Config, Stack, UserError
from src.tasks.base import Task

EPSILON = 1e-5  # probabilities are clipped here before their log-odds


@dataclass(frozen=True)
class Members:
    """The members' tables as arrays: oof (M, N, C), test (M, T, C), in one row order."""

    names: list[str]
    oof: np.ndarray
    test: np.ndarray
    outputs: list[str]
    table: pd.DataFrame  # id, fold, target of the OOF rows
    test_ids: list[str]


def load_members(folders: list[Path], outputs: list[str]) -> Members:
    """Read the members' tables; raises `UserError` where ids, folds or columns differ."""
    oofs = [pd.read_parquet(folder / "oof.parquet") for folder in folders]
    tests = [pd.read_parquet(folder / "test.parquet") for folder in folders]
    first, test_ids = oofs[0], tests[0]["id"].tolist()
    for folder, oof, test in zip(folders, oofs, tests, strict=True):
        same = oof["id"].tolist() == first["id"].tolist() and oof["fold"].tolist() == first["fold"].tolist()
        if not same or test["id"].tolist() != test_ids or not set(outputs) <= set(oof.columns):
            raise UserError(
                f"{folder}: its ids, folds or columns differ from {folders[0].name}'s; "
                f"run `make oof` for it again"
            )
    return Members(
        names=[folder.name for folder in folders],
        oof=np.stack([oof[outputs].to_numpy(np.float64) for oof in oofs]),
        test=np.stack([test[outputs].to_numpy(np.float64) for test in tests]),
        outputs=outputs,
        table=first[["id", "fold", "target"]],
        test_ids=test_ids,
    )


def build_stack(step: Step, config: Config, task: Task, members: Members) -> dict[str, Any]:
    """Score the candidates by nested CV, keep the best, write its OOF and test tables; gives metrics.json's
    content."""
    truth = task.truth(members.table["target"], members.outputs)
    fold = members.table["fold"].to_numpy()
    stacked, rounds = stack_oof(members.oof, truth, fold, config.stack, config.seed)
    candidates = {
        "mean": members.oof.mean(0),
        "best single": best_single_oof(task, members.oof, truth, fold),
        "lightgbm": stacked,
    }
    scores = {name: task.score(truth, oof) for name, oof in candidates.items()}
    chosen, honest = choose(task, candidates, truth, fold)
    booster = fit_booster(members.oof, truth, config.stack, config.seed, rounds)
    single = best_member(task, members.oof, truth)
    final = {
        "mean": members.test.mean(0),
        "best single": members.test[single],
        "lightgbm": apply_booster(booster, members.test),
    }
    write_parquet(
        step.folder / "oof.parquet",
        members.table.join(pd.DataFrame(candidates[chosen], columns=members.outputs)),
    )
    test = pd.DataFrame(final[chosen], columns=members.outputs)
    test.insert(0, "id", members.test_ids)
    write_parquet(step.folder / "test.parquet", test)
    write_text(step.folder / "model.txt", booster.model_to_string())
    metrics = {
        "metric": task.metric.name,
        "kept": chosen,
        "cv": scores[chosen],
        "cv_of_the_choice": task.score(truth, honest),
        "standard_error": paired_error(task, candidates[chosen], None, truth, fold),
        "candidates": {
            name: {"cv": scores[name], **against_mean(task, candidates, name, truth, fold)}
            for name in candidates
        },
        "members": {
            name: task.score(truth, oof) for name, oof in zip(members.names, members.oof, strict=True)
        },
        "best_single": members.names[single],
        "boosting_rounds": rounds,
        "importance": dict(
            zip(members.names, booster.feature_importance("gain").round(3).tolist(), strict=True)
        ),
    }
    write_json(step.folder / "metrics.json", metrics)
    step.done()
    return metrics


# --- the candidates
# ----------------------------------------------------------------------------------------------------


def stack_oof(
    oof: np.ndarray, truth: np.ndarray, fold: np.ndarray, settings: Stack, seed: int
) -> tuple[np.ndarray, int]:
    """(N, C) stacked predictions, each row by a booster that saw no row of its fold; and a number of rounds
    for the last fit.

    Rounds are stopped on another of the training folds, never on the scored one.
    """
    result, rounds = np.empty_like(oof[0]), []
    names = np.unique(fold)
    for place, held_out in enumerate(names):
        watch = names[(place + 1) % len(names)]
        scored, watched = fold == held_out, fold == watch
        learned = ~scored & ~watched if len(names) > 2 else ~scored
        stopper = (oof[:, watched], truth[watched]) if len(names) > 2 else None
        booster = fit_booster(oof[:, learned], truth[learned], settings, seed, settings.max_rounds, stopper)
        rounds.append(booster.best_iteration or settings.max_rounds)
        full = fit_booster(
            oof[:, ~scored], truth[~scored], settings, seed, rounds[-1]
        )  # the watched fold teaches too
        result[scored] = apply_booster(full, oof[:, scored])
    return result, int(np.median(rounds))


def fit_booster(
    oof: np.ndarray,
    truth: np.ndarray,
    settings: Stack,
    seed: int,
    rounds: int,
    stopper: tuple[np.ndarray, np.ndarray] | None = None,
) -> lgb.Booster:
    """LightGBM on (row, class) examples; with `stopper` (oof, truth) it stops when that log-loss has not
    fallen for a while."""
    parameters = {
        "objective": "binary",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.num_leaves,
        "min_data_in_leaf": settings.min_data_in_leaf,
        "lambda_l2": 1.0,
        "monotone_constraints": [1] * len(oof),
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1 if oof[0].size < 100_000 else 0,  # two threads on tiny data spun for minutes
        "verbose": -1,
    }
    train = lgb.Dataset(features(oof), answers(oof, truth), free_raw_data=True)
    if stopper is None:
        return lgb.train(parameters, train, rounds)
    watched = lgb.Dataset(features(stopper[0]), answers(*stopper), reference=train)
    stop = lgb.early_stopping(settings.patience, verbose=False)
    return lgb.train(parameters, train, rounds, valid_sets=[watched], callbacks=[stop])


def apply_booster(booster: lgb.Booster, oof: np.ndarray) -> np.ndarray:
    """(M, N, C) member predictions to (N, C) stacked ones, rows adding to 1."""
    _, n, c = oof.shape
    values = booster.predict(features(oof)).reshape(n, c)
    return values / values.sum(1, keepdims=True)


def features(oof: np.ndarray) -> np.ndarray:
    """(M, N, C) probabilities to (N * C, M) log-odds."""
    p = np.clip(oof, EPSILON, 1 - EPSILON)
    return np.log(p / (1 - p)).reshape(len(oof), -1).T


def answers(oof: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N * C,) whether each example's class is its row's."""
    return (np.arange(oof.shape[2])[None] == truth[:, None]).ravel().astype(np.float32)


def best_member(task: Task, oof: np.ndarray, truth: np.ndarray) -> int:
    """The member with the best score; the first of equals."""
    scores = [task.metric.sign * task.score(truth, predictions) for predictions in oof]
    return int(np.nanargmax(scores))


def best_single_oof(task: Task, oof: np.ndarray, truth: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(N, C): each fold predicted by the member that is best on the other folds, so that the choice is honest
    too."""
    result = np.empty_like(oof[0])
    for k in np.unique(fold):
        result[fold == k] = oof[best_member(task, oof[:, fold != k], truth[fold != k])][fold == k]
    return result


# --- the choice
# --------------------------------------------------------------------------------------------------------


def choose(
    task: Task, candidates: dict[str, np.ndarray], truth: np.ndarray, fold: np.ndarray
) -> tuple[str, np.ndarray]:
    """The candidate to keep, and (N, C) what that way of choosing predicts when each fold's rows had no say
    in it.

    The plain mean is kept unless another beats it by more than the standard error of their difference.
    """
    honest = np.empty_like(candidates["mean"])
    for k in np.unique(fold):
        others = fold != k
        name = _winner(task, {n: oof[others] for n, oof in candidates.items()}, truth[others], fold[others])
        honest[~others] = candidates[name][~others]
    return _winner(task, candidates, truth, fold), honest


def _winner(task: Task, candidates: dict[str, np.ndarray], truth: np.ndarray, fold: np.ndarray) -> str:
    best, lead = "mean", 0.0
    for name in candidates:
        if name == "mean":
            continue
        gain = against_mean(task, candidates, name, truth, fold)
        if gain["gain"] is not None and gain["gain"] > max(lead, gain["gain_error"] or 0.0):
            best, lead = name, gain["gain"]
    return best


def against_mean(
    task: Task, candidates: dict[str, np.ndarray], name: str, truth: np.ndarray, fold: np.ndarray
) -> dict[str, Any]:
    """How much better than the mean, fold by fold, positive when better; with the standard error of that
    difference."""
    if name == "mean":
        return {"gain": None, "gain_error": None}
    difference = [
        task.metric.sign
        * (
            task.score(truth[fold == k], candidates[name][fold == k])
            - task.score(truth[fold == k], candidates["mean"][fold == k])
        )
        for k in np.unique(fold)
    ]
    return {
        "gain": float(np.mean(difference)),
        "gain_error": float(np.std(difference, ddof=1) / np.sqrt(len(difference))),
    }


def paired_error(
    task: Task, oof: np.ndarray, other: np.ndarray | None, truth: np.ndarray, fold: np.ndarray
) -> float:
    """Standard error over folds of a score."""
    scores = [task.score(truth[fold == k], oof[fold == k]) for k in np.unique(fold)]
    return float(np.std(scores, ddof=1) / np.sqrt(len(scores)))
