"""Learning-rate range test (LR finder): raise the rate over a hundred batches, suggest one from the loss.

Reads   data/folds.csv, data/cache/ (stage 01); trains a temporary network on the first fold
Writes  runs/<name>/lr_find.csv, runs/<name>/lr_find.png
"""

from __future__ import annotations

from src.cli import main


def run(config, force):
    from src.artifacts import write_csv
    from src.progress import Progress
    from src.report.lr_curve import draw_range
    from src.steps import dataset_inputs
    from src.tasks import create_task
    from src.training.devices import devices
    from src.training.lr_finder import STEPS, for_range_test, range_test, suggest

    dataset_inputs(config)
    from src.data.loaders import load_fold
    from src.training.trainer import Trainer

    fold, changed, task = config.selected_folds[0], for_range_test(config), create_task(config)
    data = load_fold(changed, task, fold)
    trainer = Trainer(changed, task, data, data.train, fold, devices(config)[0])
    with Progress(f"lr-find {config.name}", STEPS) as progress:
        curve = range_test(trainer, report=progress.step)
    found, folder = suggest(curve), config.root / "runs" / config.name
    write_csv(folder / "lr_find.csv", curve)
    draw_range(folder / "lr_find.png", curve, found.steepest, found.tenth, config.train.lr)
    if found.rate is None:
        print(f"lr-find: {found.why}")
        return
    print(f"lr-find: the loss falls fastest at {found.steepest:.2g}; lowest / 10 is {found.tenth:.2g}")
    print(f"lr-find: try train.lr={found.rate:.2g} (now {config.train.lr:g}): {found.why}")
    print(f"lr-find: look at {folder / 'lr_find.png'}")


if __name__ == "__main__":
    main(run, __doc__)
