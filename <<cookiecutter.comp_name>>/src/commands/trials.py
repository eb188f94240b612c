"""Trials: runs of an experiment with one change each, paired with it by fold and seed.

`make ablate` and `make sweep` consist of trials. A trial is an ordinary run in `runs/`, fingerprinted,
resumed and skipped if up to date; its name ends in a hash of all its settings, and `trial.json` keeps it out
of stacks. A model that the experiment or another trial has already trained is copied, so an inference trick
costs no training.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from src.artifacts import Step, write_json
from src.cli import check_known_names
from src.config import Config, NoEffect, UserError
from src.configfile import load_config
from src.locks import alone
from src.steps import Run, images_step, predict_step, run_of, score_step, train_step

NEXT_KEY = r"(?=[A-Za-z_][\w.]*=)"
MARKER = "trial.json"
IMAGES = (
    "image_size",
    "cache_size",
    "fit",
    "max_value",
    "squeeze",
    "preprocess",
)  # keys of `data` that change the pixels but not the rows
NOT_TRIED = {  # sections and keys that cannot be tried in stages 02 and 03, with the reason
    "name": "a trial is named after what it changes",
    "seed": "the pairs have seeds of their own",
    "fold": "the pairs are of several folds",
    "folds": "the pairs are of several folds; give it in ARGS to choose which",
    "competition": "it changes no score",
    "task": "scores of another task or metric cannot be compared",
    "data": f"other rows cannot be compared; of data only {', '.join(IMAGES)} can be tried",
    "cv": "other folds cannot be paired with these",
    "pseudo": "a trial ends with stage 03, before pseudo-labels",
    "stack": "a trial ends with stage 03, before the stack",
    "submit": "a trial ends with stage 03, before a submission",
    "tracking": "it changes no score",
    "runtime": "it changes no score",
    "kaggle": "it changes no score",
}


class Pair(NamedTuple):
    """What a trick and the base have in common when compared: the fold that is scored, and the seed."""

    fold: int
    seed: int


@dataclass(frozen=True)
class Change:
    """The overrides of one trick, such as `train.ema.enabled=false`; none for the base experiment."""

    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The overrides as text; `base` if there are none."""
        return " ".join(self.overrides) or "base"

    @classmethod
    def read(cls, text: str) -> Change:
        """Parse `a=1 b=2` or `a=1,b=2`, keys that change together.

        Raises `UserError` for a key that cannot be tried.
        """
        words = [word for word in re.split(rf"[\s,]+{NEXT_KEY}", text.strip()) if word]
        for word in words:
            key = word.partition("=")[0]
            section, _, rest = key.partition(".")
            images = section == "data" and rest in IMAGES
            if section in NOT_TRIED and not images:
                raise UserError(f"{key} is no trick to try: {NOT_TRIED[section]}")
        return cls(tuple(words))


BASE = Change()


@dataclass
class Trials:
    """An experiment and its trials.

    `share` is the share of the epochs that are trained. `failed` holds the reason per change that could not
    be trained, `left_out` the reason per change that was not tried.
    """

    path: str  # path of the experiment's config
    arguments: list[str]  # overrides of the experiment itself
    kind: str  # "ablate" or "sweep"
    share: float = 1.0
    failed: dict[Change, str] = field(default_factory=dict)
    left_out: dict[Change, str] = field(default_factory=dict)

    def __post_init__(self):
        self.config = load_config(self.path, self.arguments)
        self.folds, self.seed = self.config.selected_folds, self.config.seed
        self.root = self.config.root

    def check(self, changes: Iterable[Change], leave_out: bool = False) -> list[Change]:
        """The changes that differ in training from the experiment and from each other.

        Raises `UserError` for the first invalid change or one without effect; with `leave_out` the latter are
        printed and recorded in `left_out` instead.
        """
        known, kept = {self.mark(self.configured(BASE, self.seed)): self.config.name}, []
        for change in changes:
            try:
                config = self.configured(change, self.seed)
                check_known_names(config)
                mark = self.mark(config)
                if change.overrides and mark in known:
                    raise NoEffect(f"{change.name}: {known[mark]} has that already; try another value")
            except NoEffect as error:
                if not leave_out:
                    raise
                self.left_out[change] = str(error)
                print(f"left out: {error}")
                continue
            known[mark] = change.name
            kept.append(change)
        if not kept:
            raise UserError(
                f"{self.kind}: nothing that was given changes {self.config.name}; try other values"
            )
        return kept

    def configured(self, change: Change, seed: int) -> Config:
        """The config of a trial; raises `UserError` that names the invalid change."""
        words = [*self.arguments, *change.overrides, f"seed={seed}", "tracking.wandb=disabled"]
        try:
            config = load_config(self.path, words)
        except UserError as error:
            raise type(error)(f"{change.name}: {error}" if change.overrides else str(error)) from None
        epochs = max(1, round(self.share * config.train.epochs))
        return config if self.share == 1 else config.with_epochs(epochs)

    def mark(self, config: Config) -> str:
        """Eight hexadecimal digits over everything a trial's score depends on; they tell trials apart."""
        tried = (key for key in config.settings() if key not in NOT_TRIED)
        settings = {key: config.effective(key) for key in tried}
        images = config.data.model_dump(mode="json", include=set(IMAGES))
        recipe = {**settings, "seed": config.seed, "data": images}
        return Step("", Path(), (), recipe).fingerprint[:8]

    def run(self, change: Change, seed: int) -> Run:
        """The run of a change and a seed; which folds it trains is decided by the pairs."""
        config = self.configured(change, seed)
        name = f"{self.config.name}-{self.kind}-{self.mark(config)}"
        return run_of(config.model_copy(update={"name": name, "fold": None, "folds": None}))

    def done(self, change: Change, pairs: Iterable[Pair]) -> bool:
        """Whether a change has the predictions of all these pairs; imports nothing heavy."""
        runs = {seed: self.run(change, seed) for seed in {pair.seed for pair in pairs}}
        steps = ((runs[pair.seed], pair.fold) for pair in pairs)
        try:
            return all(train_step(*one).fresh() and predict_step(*one).fresh() for one in steps)
        except UserError:  # its images are not cached yet, or its teacher is not trained
            return False

    def make(self, change: Change, pairs: list[Pair]) -> None:
        """Train and predict the missing pairs in parallel; a change that fails is recorded in `failed`."""
        from src.inference.oof import predict_run
        from src.training.launch import train_run

        if change in self.failed:
            return
        try:
            self.pack(change)
            if self.done(change, pairs):
                return
            for seed in dict.fromkeys(pair.seed for pair in pairs):
                run, folds = self.run(change, seed), tuple(p.fold for p in pairs if p.seed == seed)
                say = {"of": self.config.name, "change": list(change.overrides), "seed": seed}
                write_json(run.folder / MARKER, say)
                print(f"{change.name}, seed {seed}: {run.name}")
                for fold in folds:
                    with alone(run.fold_folder(fold)):
                        self.take_over(run, fold)
                train_run(run, folds)
                predict_run(run, folds)
        except UserError as error:
            if not change.overrides:
                raise
            self.failed[change] = str(error)
            print(f"{change.name} cannot be trained: {error}")

    def pack(self, change: Change) -> None:
        """Create the image cache of a change that needs another one; stage 01 has made the experiment's."""
        config = self.configured(change, self.seed)
        if config.data != self.config.data and not images_step(config).fresh():
            from src.data.prepare import prepare_dataset

            prepare_dataset(config)

    def take_over(self, run: Run, fold: int) -> None:
        """Copy the model of the same recipe if the experiment or another trial has trained it."""
        step = train_step(run, fold)
        if step.fresh():
            return
        names = [*step.outputs, step.stamp.name]
        for folder in sorted((self.root / "runs").glob(f"{self.config.name}*")):
            donor = replace(step, folder=folder / f"fold{fold}")
            if donor.folder != step.folder and donor.fresh() and step.begin():
                step.folder.mkdir(parents=True, exist_ok=True)
                for name in names:  # the stamp is copied last: a killed copy counts as unfinished
                    shutil.copy2(donor.folder / name, step.folder / name)
                return

    def finish(self, changes: Iterable[Change], pairs: list[Pair]) -> None:
        """Score complete runs, those with every fold, as `make oof` does, for use in `stack.members`."""
        from src.inference.oof import predict_run

        everyone = set(range(self.config.cv.n_folds))
        whole = [seed for seed in {p.seed for p in pairs} if everyone == {f for f, s in pairs if s == seed}]
        for run in (self.run(change, seed) for change in changes for seed in whole):
            if self.share == 1 and not score_step(run).fresh():
                predict_run(run, tuple(sorted(everyone)))

    def scores(self, change: Change, pairs: list[Pair]) -> dict[Pair, float]:
        """The metric on each pair's held-out rows, which the model never saw; NaN if it is undefined.

        If the metric needs decisions, a fold uses a rule fitted on the other folds of the same run that are
        present, or the plain rule if there are none.
        """
        import pandas as pd

        from src.inference.oof import read_outputs
        from src.reading import read_parquet
        from src.scoring import evaluate
        from src.tasks import create_task

        found = {}
        for seed in dict.fromkeys(pair.seed for pair in pairs):
            run, folds = self.run(change, seed), sorted(p.fold for p in pairs if p.seed == seed)
            oof = pd.concat([read_parquet(run.fold_folder(k) / "oof.parquet") for k in folds])
            metrics = evaluate(create_task(run.config), oof.reset_index(drop=True), read_outputs(run))
            for fold, score in zip(folds, metrics["folds"], strict=True):
                found[Pair(fold, seed)] = float("nan") if score is None else score
        return found

    def tables(self, change: Change, pairs: Iterable[Pair]) -> dict[str, Any]:
        """Digests of the OOF tables behind the scores, for a fingerprint."""
        from src.artifacts import digest

        runs = {seed: self.run(change, seed) for seed in {pair.seed for pair in pairs}}
        return {
            f"{run.name}/{p.fold}": digest(run.fold_folder(p.fold) / "oof.parquet")
            for p in pairs
            for run in (runs[p.seed],)
        }


def pairs_in_batches(pairs: list[Pair], width: int) -> Iterator[list[Pair]]:
    """The pairs in order, in batches of as many as train in parallel, each batch of one seed."""
    for seed in dict.fromkeys(pair.seed for pair in pairs):
        mine = [pair for pair in pairs if pair.seed == seed]
        yield from (mine[start : start + width] for start in range(0, len(mine), width))
