"""Permutation test for leaks: all stages on permuted images, so a score above chance means leaked labels.

The images of a few hundred rows swap places, so no image is related to its label, while all tables and masks
stay as they are. A tiny network memorises the rows, which is what makes a leak visible in a score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.config import Config, UserError
from src.decisions import assemble, fit_rule, take_rows
from src.reading import MAYBE, read_dataset, read_json, read_metrics, read_parquet
from src.scoring import finite
from src.tasks import create_task
from src.tasks.base import Task, targets_in

ROWS, TEST_ROWS, FOLDS = 320, 320, 4
SHUFFLES = {"numbers": 200, "rankings": 100, "maps": 40}  # permutations; masks take long to score
_LIMIT = 3.0  # standard deviations above chance; about one leak-free check in 700 exceeds it
STUDENT = "student"
_SURE = {"multiclass": 0.01, "retrieval": 0.01}  # accepts every row as a pseudo-label; other tasks use 0.51


@dataclass(frozen=True)
class Check:
    """A stage's CV on permuted data, beside chance: mean and standard deviation over permuted labels.

    The labels are permuted within the folds.
    """

    stage: str
    name: str
    cv: float
    chance: float
    spread: float
    sign: int

    @property
    def beyond(self) -> float:
        """How many standard deviations better than chance the CV is."""
        better = self.sign * (self.cv - self.chance)
        if not self.spread:
            return math.copysign(math.inf, better) if better else 0.0
        return better / self.spread

    @property
    def leaks(self) -> bool:
        """Whether the CV is so far above chance that it indicates a leak."""
        return not self.beyond <= _LIMIT

    def line(self) -> str:
        """The report line for the terminal."""
        verdict = "LEAK" if self.leaks else "at chance" if self.beyond >= -_LIMIT else "below chance"
        low, high = (self.chance + k * _LIMIT * self.spread for k in (-1, 1))
        return (
            f"{self.stage}  {self.name:<20} {self.cv:.4f}  chance {self.chance:.4f} ({low:.4f} to {high:.4f})"
            f"  {verdict}"
        )


def noise_config(config: Config, root: Path) -> Config:
    """The experiment's data, folds and decision rules under `root`, with a network that memorises labels."""
    values = config.model_dump(exclude={"fold", "folds", "mixing", "augment", "train", "model", "inference"})
    kind = {"group": "plain", "stratified_group": "stratified"}.get(config.cv.kind, config.cv.kind)
    retrieval = config.task.name == "retrieval"
    values |= {"name": "noise", "root": root}
    values["data"] |= {"image_size": 32, "cache_size": None, "near_duplicates": -1, "group": None}
    values["cv"] |= {"kind": kind, "n_folds": FOLDS, "allow_rare": True}
    values["cv"]["stop_parts"] = 4 if retrieval else config.cv.stop_parts
    values["model"] = {"backbone": "test_resnet", "pretrained": False}
    values["augment"] = {"hflip": 0.0, "crop_scale": (1.0, 1.0)}
    two = config.task.name == "regression"  # its pseudo-labels need the spread between views
    values["inference"] = {"tta": ("identity", "hflip") if two else ("identity",)}
    values["train"] = {
        "epochs": 20,
        "lr": 4e-3,
        "batch_size": 32,
        "label_smoothing": 0.0,
        "ema": {"enabled": False},
        # Keep the last weights: the best ones on the early-stopping split have memorised least.
        # Only retrieval has the split, since stage 04 calibrates rankings on it.
        "early_stopping": {"enabled": retrieval, "patience": None},
    }
    values["pseudo"] |= {"rounds": 2, "threshold": _SURE.get(config.task.name, 0.51), "pixels": 0.0}
    values["pseudo"] |= {
        "labels": "hard",
        "epochs": None,
    }  # soft labels of noise are nearly flat and hide leaks
    values["pseudo"] |= {"calibrate": None, "cap": None, "prior": None, "start": "scratch", "external": None}
    values["consistency"] = None
    values["distill"] = {"weight": 0.7}
    values["stack"] |= {"name": "noise", "members": ("*",), "features": None}
    values["submit"] |= {"source": "stack", "name": None}
    values["tracking"]["wandb"] = "disabled"
    return Config.model_validate(values)


def run_stages(config: Config) -> None:
    """Stages 01 to 05: a model, its student, two pseudo-label rounds, and a stack of them all."""
    from src.data.prepare import prepare_dataset
    from src.ensemble.members import find_members
    from src.ensemble.report import stack_runs
    from src.inference.oof import predict_run
    from src.pseudo.rounds import label_recursively
    from src.steps import run_of, stack_step
    from src.training.launch import train_run

    prepare_dataset(config)
    lesson = config.distill.model_copy(update={"teacher": config.name})
    pupil = config.model_copy(update={"name": STUDENT, "seed": config.seed + 1, "distill": lesson})
    for experiment in (config, pupil):
        run = run_of(experiment)
        train_run(run, experiment.selected_folds)
        predict_run(run, experiment.selected_folds)
    label_recursively(config)
    folders, _ = find_members(config)
    stack_runs(stack_step(config, folders), config, folders)


def checks(config: Config) -> list[Check]:
    """The CV of each stage of a finished permuted competition, beside chance."""
    task = create_task(config)
    outputs = read_dataset(config.root)["outputs"]
    alike = exchangeable(config)
    found = []
    finished = (path.parent for path in (config.root / "runs").glob("*/metrics.json"))
    for run in sorted(finished):
        stage = "04" if "-round" in run.name else "03"
        oof, metrics = read_parquet(run / "oof.parquet"), read_metrics(run)
        chance, spread = shuffled(task, oof, outputs, alike)
        if stage == "03" and task.kind == "numbers":  # rankings and maps: only a quick estimate in 02
            scores = [
                read_json(run / f"fold{k}" / "score.json", score=MAYBE)["score"]
                for k in config.selected_folds
            ]
            by_fold = shuffled(task, oof, outputs, alike, by_fold=True)
            found.append(Check("02", run.name, float(np.mean(scores)), *by_fold, task.metric.sign))
        found.append(Check(stage, run.name, metrics["cv"], chance, spread, task.metric.sign))
    folder = config.root / "stacks" / config.stack.name
    oof, metrics = read_parquet(folder / "oof.parquet"), read_metrics(folder)
    chance, spread = shuffled(task, oof, outputs, alike)
    found.append(Check("05", f"stack ({metrics['kept']})", metrics["cv"], chance, spread, task.metric.sign))
    for name, row in metrics["candidates"].items():
        if row["cv"] is not None:
            found.append(Check("05", name, row["cv"], chance, spread, task.metric.sign))
    return found


def shuffled(
    task: Task, oof: pd.DataFrame, outputs: list[str], alike: np.ndarray, by_fold: bool = False
) -> tuple[float, float]:
    """Mean and standard deviation of the CV over labels permuted within each fold.

    Only rows with equal `alike` (N,) exchange labels. `by_fold` uses the mean of the folds' plain scores.
    """
    truth, said = task.truth(targets_in(oof), outputs), task.read(oof, outputs)
    fold, random = oof["fold"].to_numpy(), np.random.default_rng(0)
    score = mean_of_folds if by_fold else nested_cv
    scores = []
    for _ in range(SHUFFLES[task.kind]):
        order = np.arange(len(fold))
        for members in pd.Series(order).groupby([fold, alike]).indices.values():
            order[members] = random.permutation(members)
        scores.append(score(task, take_rows(truth, order), said, fold))
    scores = [one for one in scores if finite(one) is not None]
    if len(scores) < 2:
        raise UserError(f"leakcheck: {task.metric.name} has no value on so few rows; try another metric")
    return float(np.mean(scores)), float(np.std(scores, ddof=1))


def nested_cv(task: Task, truth: Any, said: Any, fold: np.ndarray) -> float:
    """The CV, with each fold decided by a rule fitted on the other folds.

    Implemented again here, so that the checked code does not check itself.
    """
    decided, rows = [], []
    for k in np.unique(fold):
        own, others = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        rule = fit_rule(task.metric, take_rows(truth, others), take_rows(said, others))
        rows.append(own)
        decided.append(rule.apply(take_rows(said, own)))
    return task.metric(truth, assemble(list(zip(rows, decided, strict=True))))


def mean_of_folds(task: Task, truth: Any, said: Any, fold: np.ndarray) -> float:
    """The mean of the fold scores without a fitted decision rule, as stage 02 reports it."""
    rows = [np.flatnonzero(fold == k) for k in np.unique(fold)]
    return float(np.mean([task.score(take_rows(truth, own), take_rows(said, own)) for own in rows]))


def exchangeable(config: Config) -> np.ndarray:
    """(N,) groups of rows whose labels can be exchanged: all rows, or for masks those of equal size."""
    from src.data.images import open_images

    store = open_images(config)
    if config.task.name != "segmentation":
        return np.zeros(len(store.train), np.int64)
    return pd.factorize(pd.Series([f"{h}x{w}" for h, w in store.train_sizes]))[0]
