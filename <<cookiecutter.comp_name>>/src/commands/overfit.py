"""Overfit one batch, without augmentation or regularisation. Exit status 1 if it cannot be memorised.

The first check if a score is no better than chance.

Reads   data/folds.csv, data/cache/ (stage 01); trains a temporary network on the first fold
Writes  nothing
"""

from __future__ import annotations

import sys

from src.cli import main


def run(config, force):
    from src.steps import dataset_inputs

    dataset_inputs(config)
    from src.data.loaders import load_fold
    from src.progress import Progress
    from src.tasks import create_task
    from src.training.devices import devices
    from src.training.overfit import STEPS, learn_by_heart, without_regularisation
    from src.training.trainer import Trainer

    fold, bare, task = config.selected_folds[0], without_regularisation(config), create_task(config)
    data = load_fold(bare, task, fold)
    trainer = Trainer(bare, task, data, data.train, fold, devices(config)[0])
    with Progress(f"overfit {config.name}", STEPS) as progress:
        outcome = learn_by_heart(trainer, report=progress.step)
    rows = len(trainer.sampler.batches()[0])
    print(f"overfit: one batch of {rows} rows, {len(outcome.losses)} steps, loss {outcome.words}")
    metric = f"{task.metric.name} {outcome.score:.4f} on these rows"
    if outcome.learned:
        print(f"overfit: learned by heart, {metric}: targets, loss and network belong together")
        return
    print(f"overfit: NOT learned by heart, {metric}: {outcome.advice(config.train)}")
    sys.exit(1)


if __name__ == "__main__":
    main(run, __doc__)
