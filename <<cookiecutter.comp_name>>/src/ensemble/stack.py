"""Stage 05: LightGBM over the members' OOF tables, against their plain mean and the best single run.

All are scored by nested CV on the same folds; the mean is kept unless another beats it by more than the
standard error of the difference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from src.artifacts import Step, write_json, write_parquet
from src.config import Config, UserError
from src.decisions import countable, nested
from src.ensemble.choice import against_mean, best_member, best_single_oof, choose
from src.ensemble.levels import KINDS, Members
from src.ensemble.members import optimism
from src.scoring import evaluate, finite
from src.tasks.base import Task, as_targets, targets_in


def load_tables(folders: list[Path], columns: list[str]) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """The members' OOF and test tables; raises `UserError` where ids, folds or columns differ."""
    oofs = [pd.read_parquet(folder / "oof.parquet") for folder in folders]
    tests = [pd.read_parquet(folder / "test.parquet") for folder in folders]
    first, test_ids = oofs[0], tests[0]["id"].tolist()
    for folder, oof, test in zip(folders, oofs, tests, strict=True):
        same = oof["id"].tolist() == first["id"].tolist() and oof["fold"].tolist() == first["fold"].tolist()
        if not same or test["id"].tolist() != test_ids or not set(columns) <= set(oof.columns):
            raise UserError(
                f"{folder}: its ids, folds or columns differ from {folders[0].name}'s; "
                f"run `make oof` for it again"
            )
    return oofs, tests


def build_stack(
    step: Step, config: Config, task: Task, folders: list[Path], outputs: list[str]
) -> dict[str, Any]:
    """Score the candidates by nested CV, keep the best, write its OOF and test tables; gives metrics.json's
    content."""
    columns = list(task.columns(outputs))
    oofs, tests = load_tables(folders, columns)
    names, labels, fold = [f.name for f in folders], targets_in(oofs[0]), oofs[0]["fold"].to_numpy()
    truth = task.truth(labels, outputs)
    members = Members(
        names=names,
        oof=[task.read(oof, outputs) for oof in oofs],
        test=[task.read(test, outputs) for test in tests],
        truth=truth,
        targets=task.encode(labels, outputs) if task.kind == "numbers" else None,
        fold=fold,
    )
    found = KINDS[task.kind](task, members, config.stack, config.seed)

    def scored(predictions: Any) -> Any:
        return countable(task.metric, truth, predictions)  # of masks what a score needs, counted once

    seen = [scored(one) for one in members.oof]
    single = best_member(task, seen, truth, fold)
    rivals = {name: scored(oof) for name, oof in found.oof.items()}
    rivals["best single"] = best_single_oof(task, seen, truth, fold)
    chosen, honest = choose(task, rivals, truth, fold)
    oof = found.oof[chosen] if chosen in found.oof else best_single_oof(task, members.oof, truth, fold)
    test = found.test[chosen] if chosen in found.test else members.test[single]
    table = oofs[0][["id", "fold"]].join(as_targets(labels)).join(task.write(oof, outputs))
    gains = {name: against_mean(task, rivals, name, truth, fold) for name in rivals}

    def cv(predictions: Any) -> float | None:
        return finite(nested(task.metric, truth, predictions, fold).score)

    metrics = {
        **evaluate(task, table, outputs),
        **optimism(folders),
        "kept": chosen,
        "cv_of_the_choice": finite(honest),
        "candidates": {
            name: {"cv": cv(rivals[name]), "gain": gain, "gain_error": error}
            for name, (gain, error) in gains.items()
        },
        "members": {name: cv(one) for name, one in zip(names, seen, strict=True)},
        "best_single": names[single],
        **found.shown,
    }
    write_parquet(step.folder / "test.parquet", tests[0][["id"]].join(task.write(test, outputs)))
    write_json(step.folder / "stacker.json", {"members": names, **found.stored})
    write_parquet(step.folder / "oof.parquet", table)
    write_json(step.folder / "metrics.json", metrics)
    step.done()
    return metrics
