"""Train the folds of a run in parallel, or, under torchrun (DDP), one after another with all processes."""

from __future__ import annotations

import os
from contextlib import nullcontext

import torch

from src.artifacts import Step, write_yaml
from src.data.loaders import create_sampler, load_fold, training_rows
from src.locks import alone
from src.models.names import unknown_on_kaggle
from src.progress import Progress
from src.reading import read_csv
from src.steps import Run, train_step
from src.tasks import create_task
from src.tracking import import_wandb_early
from src.training.distributed import World, is_one_of_several, join
from src.training.fold import train_fold
from src.training.worker_pool import limit_torch, run_in_parallel


def train_run(run: Run, folds: tuple[int, ...]) -> None:
    """Train those of the given folds that are not up to date.

    They are trained in parallel, or, under torchrun (DDP), one after another, each with all processes.
    """
    if is_one_of_several():
        _train_together(run, folds)
        return
    steps = {fold: train_step(run, fold) for fold in folds}
    todo = [fold for fold in folds if not steps[fold].fresh()]
    for fold in sorted(set(folds) - set(todo)):
        print(steps[fold].up_to_date_line())
    if not todo:
        return
    with alone(*(steps[fold].folder for fold in todo)):
        _train_side_by_side(run, {fold: steps[fold] for fold in todo})


def _train_side_by_side(run: Run, steps: dict[int, Step]) -> None:
    for step in steps.values():
        if step.fresh():  # another process has trained it meanwhile
            print(step.up_to_date_line())
        elif step.why():
            print(f"{step.title}: {'; '.join(step.why())}")
    # `begin()` restores outputs of the same settings that had been set aside
    todo = [fold for fold, step in steps.items() if step.begin()]
    if not todo:
        return
    warn_of_image(run)
    write_yaml(run.folder / "config.yaml", {**run.config.settings(), "name": run.name})
    import_wandb_early(run.config)
    jobs = [(run, fold, steps[fold]) for fold in todo]
    run_in_parallel(train_fold, jobs, run.config, f"02 train {run.name}", total_steps(run, todo))
    draw_run(run)


def _train_together(run: Run, folds: tuple[int, ...]) -> None:
    world, device = join(run.config)
    steps = {fold: train_step(run, fold) for fold in folds}
    # the other ranks cannot wait long: they time out if rank 0 waits for a lock
    held = alone(*(step.folder for step in steps.values()), wait=False) if world.first else nullcontext()
    with held:
        _train_by_all(run, steps, world, device)


def _train_by_all(run: Run, steps: dict[int, Step], world: World, device: torch.device) -> None:
    todo: list[int] = []
    if world.first:
        todo = [fold for fold, step in steps.items() if step.begin()]
        warn_of_image(run)
        write_yaml(run.folder / "config.yaml", {**run.config.settings(), "name": run.name})
    todo = world.gather(todo)[0]
    limit_torch(run.config, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    with Progress(f"02 train {run.name}", total_steps(run, todo) if world.first else 1) as progress:

        def show(steps=0, note="", line="", last=False, skipped=0) -> None:
            if world.first:
                progress.skip(skipped)
                progress.step(steps, note)
                if last or (line and progress.quiet_for_long()):
                    progress.say(f"{line}, {progress.remaining()} left")

        for fold in todo:
            train_fold(run, fold, steps[fold], device, show, world)
            world.gather(None)  # wait until all ranks have finished the fold
    if world.first:
        draw_run(run)


def warn_of_image(run: Run) -> None:
    """Code competitions: warn before training if the timm in Kaggle's image does not have the backbone."""
    why = unknown_on_kaggle(run.config.model.backbone) if run.config.kaggle.code_competition else None
    if why is not None:
        print(f"warning: {why}; `make bundle` will refuse this run")


def draw_run(run: Run) -> None:
    """Plot the learning curves of all folds that have a history.csv."""

    from src.report.pictures import draw_curves

    paths = {fold: run.fold_folder(fold) / "history.csv" for fold in range(run.config.cv.n_folds)}
    histories = {
        fold: read_csv(path, ("epoch", "train_loss")) for fold, path in paths.items() if path.exists()
    }
    draw_curves(run.folder / "curves.png", histories)


def total_steps(run: Run, folds: list[int]) -> int:
    """Maximum number of optimiser steps that the folds take, for the progress bar."""
    config, task, total = run.config, create_task(run.config), 0
    for fold in folds:
        rows = training_rows(run, task, fold, load_fold(config, task, fold))
        total += -(-len(create_sampler(rows, config, 0)) // config.train.accumulate) * config.train.epochs
    return total
