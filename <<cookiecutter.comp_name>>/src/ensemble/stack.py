"""Stage 05: LightGBM over the members' OOF tables, against their plain mean and the best single run.

All are scored by nested CV on the same folds; the mean is kept unless another beats it by more than the
standard error of the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import Step, write_json, write_parquet
from src.config import Config, UserError
from src.decisions import nested
from src.ensemble.boosting import fit, stack_oof
from src.ensemble.choice import against_mean, best_member, best_single_oof, choose
from src.scoring import evaluate, finite
from src.tasks.base import Task, as_targets, targets_in


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
        table=first[["id", "fold"]].join(as_targets(targets_in(first))),
        test_ids=test_ids,
    )


def build_stack(step: Step, config: Config, task: Task, members: Members) -> dict[str, Any]:
    """Score the candidates by nested CV, keep the best, write its OOF and test tables; gives metrics.json's
    content."""
    labels = targets_in(members.table)
    truth, targets = task.truth(labels, members.outputs), task.encode(labels, members.outputs)
    fold = members.table["fold"].to_numpy()
    stacked, rounds = stack_oof(members.oof, targets, fold, task.stacking, config.stack, config.seed)
    candidates = {
        "mean": members.oof.mean(0),
        "best single": best_single_oof(task, members.oof, truth, fold),
        "lightgbm": stacked,
    }
    chosen, honest = choose(task, candidates, truth, fold)
    stacker = fit(members.oof, targets, task.stacking, config.stack, config.seed, rounds)
    single = best_member(task, members.oof, truth, fold)
    final = {
        "mean": members.test.mean(0),
        "best single": members.test[single],
        "lightgbm": stacker.apply(members.test),
    }
    test = pd.DataFrame(final[chosen], columns=members.outputs)
    test.insert(0, "id", members.test_ids)
    write_parquet(step.folder / "test.parquet", test)
    write_json(step.folder / "stacker.json", {"members": members.names, **stacker.as_json()})
    table = members.table.join(pd.DataFrame(candidates[chosen], columns=members.outputs))
    gains = {name: against_mean(task, candidates, name, truth, fold) for name in candidates}

    def cv(predictions: np.ndarray) -> float | None:
        return finite(nested(task.metric, truth, predictions, fold).score)

    metrics = {
        **evaluate(task, table, members.outputs),
        "kept": chosen,
        "cv_of_the_choice": cv(honest),
        "candidates": {
            name: {"cv": cv(candidates[name]), "gain": gain, "gain_error": error}
            for name, (gain, error) in gains.items()
        },
        "members": {name: cv(oof) for name, oof in zip(members.names, members.oof, strict=True)},
        "best_single": members.names[single],
        "boosting_rounds": rounds,
        "importance": dict(zip(members.names, stacker.gain().round(3).tolist(), strict=True)),
    }
    write_parquet(step.folder / "oof.parquet", table)
    write_json(step.folder / "metrics.json", metrics)
    step.done()
    return metrics
