"""Smoke test: run all six stages on a few rows in a temporary folder and estimate the full run's cost.

The estimate: images per second, time per epoch, memory, and on CUDA the largest batch size.

Reads   data/raw/
Writes  nothing
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from src.cli import main
from src.commands.stages import scripts, stage
from src.config import UserError

EPOCHS, FOLDS = 2, 2
OPTIONAL = ("04",)  # not every competition or config uses it
_SURE = {
    "multiclass": 0.01,
    "retrieval": 0.01,
}  # a low threshold gives stage 04 pseudo-labels; else 0.51


def run(config, force):
    from src.commands.small_copy import copy_sample

    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        rows = copy_sample(config, Path(folder))
        print("smoke: all six stages on a few rows, whose scores mean nothing")
        small = small_config(config, Path(folder))
        for script in scripts():
            began = time.monotonic()
            print(f"smoke: {script.name}")
            try:
                stage(script)(small, False)
            except UserError as error:
                if script.name[:2] not in OPTIONAL:
                    raise
                print(f"smoke: {script.name} would end with: {error}")
            print(f"smoke: {script.name} took {time.monotonic() - began:.1f} s")
        for line in estimate_cost(config, small, rows):
            print(f"smoke: {line}")


def small_config(config, root: Path):
    """The experiment under `root` with few epochs and folds, independent of other runs and the internet."""
    from src.config import Config

    short = config.with_epochs(min(EPOCHS, config.train.epochs))
    values = short.model_dump(exclude={"fold", "folds"})
    values["name"] = "smoke"
    values["root"] = root
    kind = {"group": "plain", "stratified_group": "stratified"}.get(config.cv.kind, config.cv.kind)
    values["cv"] |= {"kind": kind, "n_folds": FOLDS, "allow_rare": True}
    if config.task.name == "retrieval":
        values["cv"]["stop_parts"] = 2  # stage 04 needs twenty early-stopping rows
    values["pseudo"] |= {
        "rounds": 1,
        "threshold": _SURE.get(config.task.name, 0.51),
        "pixels": 0.0,
        "epochs": 1,
        "external": None,
        "cap": None,
        "prior": None,
        "calibrate": None,  # thirty rows are too few to calibrate
    }
    values["distill"] = {}
    values["stack"] |= {"name": "smoke", "members": ("*",)}
    values["submit"] |= {"source": "stack", "name": None}
    values["tracking"]["wandb"] = "disabled"
    if config.model.weights is not None:
        values["model"]["weights"] = str((config.root / config.model.weights).resolve())
    return Config.model_validate(values)


def estimate_cost(config, small, rows: int) -> list[str]:
    """The cost of the full run, from training steps of the config's batch size on the first device."""
    import numpy as np
    import torch

    from src.data.loaders import TrainingRows, load_fold
    from src.tasks import create_task
    from src.training.devices import devices
    from src.training.probe import fits_on, images_per_second, largest_batch, peak_memory
    from src.training.single_steps import windows
    from src.training.trainer import Trainer

    device, task = devices(config)[0], create_task(config)
    same = small.model_copy(update={"train": config.train, "mixing": config.mixing})
    data = load_fold(same, task, 0)
    many = np.resize(np.arange(len(data.train)), 4 * config.train.batch_size * config.train.accumulate)
    repeated = TrainingRows(data.train.positions[many], data.train.targets[many], data.train.weights[many])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(same, task, data, repeated, 0, device)
    pace = images_per_second(trainer)
    taken = peak_memory(device) / 2**20
    share = (1 - 1 / config.cv.n_folds) * (
        1 - 1 / config.cv.stop_parts if config.train.early_stopping.enabled else 1
    )
    epoch = rows * share / pace
    whole = epoch * config.train.epochs * len(config.selected_folds) / len(devices(config))
    folds, epochs = len(config.selected_folds), config.train.epochs
    whose = "of the device" if device.type == "cuda" else "of this process"
    lines = [
        f"{pace:,.0f} training images a second on {device}, {taken:,.0f} MiB {whose}",
        f"an epoch of one fold over all {rows:,} rows would take {as_duration(epoch)}, "
        f"{epochs} epochs of {folds} folds {as_duration(whole)}",
    ]
    if device.type == "cuda":
        fits = fits_on(trainer, next(windows(trainer))[0])
        size = largest_batch(fits, config.train.batch_size)
        found = "not even 2 images fit: lower data.image_size" if size is None else f"{size} images"
        lines.append(f"largest batch that fits: {found} (train.batch_size is {config.train.batch_size})")
    return lines


def as_duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


if __name__ == "__main__":
    main(run, __doc__)
