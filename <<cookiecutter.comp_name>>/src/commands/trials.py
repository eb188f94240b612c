"""Trials: runs beside an experiment, each with one thing changed, paired with it fold by fold and seed by
seed.

`make ablate` and `make sweep` are made of them. A trial is a run like any other, in `runs/`, fingerprinted,
resumed and skipped when it is up to date; its name ends in a hash of all its settings, and `trial.json` keeps
it out of stacks. A model that the experiment or another trial has trained already is taken over: a trick of
inference costs no training.
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
)  # of `data`, what changes the pixels and no row
NOT_TRIED = {  # sections and keys that are no trick of stages 02 and 03, with the reason
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
    """What is held alike between a trick and the base: the fold that is scored, and the seed."""

    fold: int
    seed: int


@dataclass(frozen=True)
class Change:
    """Overrides that are one trick, such as `train.ema.enabled=false`; none: the experiment as it is."""

    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join(self.overrides) or "base"

    @classmethod
    def read(cls, text: str) -> Change:
        """`a=1 b=2`, or `a=1,b=2`: keys that are changed together."""
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
    """An experiment, and runs of it with changes. `share` of the epochs are trained; `failed` says of a
    change why it could not be, `left_out` why it was not tried."""

    path: str  # of the experiment's config
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
        """The changes, each another training than the experiment and those before it. Raises `UserError` for
        the first that is no good config, or that has no effect; with `leave_out` the latter are noted, in
        `left_out` too, and the others stay."""
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
        """The config of a trial; `UserError` says which change it does not like."""
        words = [*self.arguments, *change.overrides, f"seed={seed}", "tracking.wandb=disabled"]
        try:
            config = load_config(self.path, words)
        except UserError as error:
            raise type(error)(f"{change.name}: {error}" if change.overrides else str(error)) from None
        epochs = max(1, round(self.share * config.train.epochs))
        return config if self.share == 1 else config.with_epochs(epochs)

    def mark(self, config: Config) -> str:
        """Eight digits that stand for all that a trial's score depends on, and that tell trials apart."""
        tried = (key for key in config.settings() if key not in NOT_TRIED)
        settings = {key: config.effective(key) for key in tried}
        images = config.data.model_dump(mode="json", include=set(IMAGES))
        recipe = {**settings, "seed": config.seed, "data": images}
        return Step("", Path(), (), recipe).fingerprint[:8]

    def run(self, change: Change, seed: int) -> Run:
        """The run of a change and seed; its folds are those of the pairs."""
        config = self.configured(change, seed)
        name = f"{self.config.name}-{self.kind}-{self.mark(config)}"
        return run_of(config.model_copy(update={"name": name, "fold": None, "folds": None}))

    def done(self, change: Change, pairs: Iterable[Pair]) -> bool:
        """Whether a change has all these pairs' predictions; nothing heavy is imported."""
        runs = {seed: self.run(change, seed) for seed in {pair.seed for pair in pairs}}
        steps = ((runs[pair.seed], pair.fold) for pair in pairs)
        try:
            return all(train_step(*one).fresh() and predict_step(*one).fresh() for one in steps)
        except UserError:  # its images are not packed yet, or its teacher is not trained
            return False

    def make(self, change: Change, pairs: list[Pair]) -> None:
        """Train and predict what is missing of these pairs, side by side; a change that cannot be trained is
        noted in `failed`, and the others go on."""
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
        """See to the image cache of a change's size; stage 01 has seen to the experiment's."""
        config = self.configured(change, self.seed)
        if config.data != self.config.data and not images_step(config).fresh():
            from src.data.prepare import prepare_dataset

            prepare_dataset(config)

    def take_over(self, run: Run, fold: int) -> None:
        """Copy the model of this very recipe, where the experiment or another trial has trained it."""
        step = train_step(run, fold)
        if step.fresh():
            return
        names = [*step.outputs, step.stamp.name]
        for folder in sorted((self.root / "runs").glob(f"{self.config.name}*")):
            donor = replace(step, folder=folder / f"fold{fold}")
            if donor.folder != step.folder and donor.fresh() and step.begin():
                step.folder.mkdir(parents=True, exist_ok=True)
                for name in names:  # the stamp last: a kill before leaves a fold that is not finished
                    shutil.copy2(donor.folder / name, step.folder / name)
                return

    def finish(self, changes: Iterable[Change], pairs: list[Pair]) -> None:
        """Score whole runs, those with every fold, as `make oof` does: named in `stack.members`, they may be
        stacked."""
        from src.inference.oof import predict_run

        everyone = set(range(self.config.cv.n_folds))
        whole = [seed for seed in {p.seed for p in pairs} if everyone == {f for f, s in pairs if s == seed}]
        for run in (self.run(change, seed) for change in changes for seed in whole):
            if self.share == 1 and not score_step(run).fresh():
                predict_run(run, tuple(sorted(everyone)))

    def scores(self, change: Change, pairs: list[Pair]) -> dict[Pair, float]:
        """The metric on each pair's held-out rows, which the model never saw; NaN where it is undefined.

        Where it needs decisions, a fold is decided by a rule fitted on the other folds of the same run that
        are here, and by the plain rule where there are none.
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
        """What the scores come from, for a fingerprint."""
        from src.artifacts import digest

        runs = {seed: self.run(change, seed) for seed in {pair.seed for pair in pairs}}
        return {
            f"{run.name}/{p.fold}": digest(run.fold_folder(p.fold) / "oof.parquet")
            for p in pairs
            for run in (runs[p.seed],)
        }


def pairs_in_batches(pairs: list[Pair], width: int) -> Iterator[list[Pair]]:
    """The pairs in their order, as many at a time as are trained side by side, of one seed each."""
    for seed in dict.fromkeys(pair.seed for pair in pairs):
        mine = [pair for pair in pairs if pair.seed == seed]
        yield from (mine[start : start + width] for start in range(0, len(mine), width))
