"""Helpers for training tests: a trainer of the small competition, and made-up image stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from src.config import Config
from src.configfile import load_config
from src.data.images import ImageStore
from src.data.loaders import FoldData, TrainingRows, load_fold
from src.tasks import create_task
from src.training.trainer import Trainer

CPU = torch.device("cpu")
torch.set_num_threads(1)


def read(project: Path, *overrides: str) -> Config:
    """The baseline config of a project with these overrides."""
    return load_config(project / "configs" / "baseline.yaml", list(overrides))


def fold_data(config: Config, fold: int = 0) -> FoldData:
    """The data of one fold."""
    return load_fold(config, create_task(config), fold)


def make_trainer(project: Path, *overrides: str, fold: int = 0) -> Trainer:
    """A CPU trainer of the project's baseline with these overrides."""
    config = read(project, *overrides)
    data = fold_data(config, fold)
    return Trainer(config, create_task(config), data, data.train, fold, CPU)


def store_of(pixels: np.ndarray) -> ImageStore:
    """An image store of (N, S, S, 3) pixels, all of them training rows."""
    everything = np.arange(len(pixels))
    return ImageStore(
        pixels, everything, everything[:0], [str(i) for i in everything], [], (0.5,) * 3, (1,) * 3
    )


def one_image_many_times(n: int, size: int = 16) -> ImageStore:
    """An image store of n copies of one random image."""
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    return store_of(np.repeat(image, n, axis=0))


def rows_of(n: int) -> TrainingRows:
    """Training rows of n classes, one row each."""
    return TrainingRows(np.arange(n), np.eye(n, dtype=np.float32), np.ones(n, np.float32))


def silent(*_: object, **__: object) -> None:
    """A progress callback that does nothing."""
