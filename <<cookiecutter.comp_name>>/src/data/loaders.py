"""Rows of one fold, and the batches made of them: uint8 images straight from the packed cache."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from src.artifacts import read_json
from src.config import Config, UserError
from src.data.images import ImageStore, open_images
from src.steps import images_step
from src.tasks.base import Task, targets_in


@dataclass(frozen=True)
class Rows:
    """What a model learns from: positions (N,) in the image store, targets (N, C) float32, loss weights
    (N,)."""

    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def __add__(self, other: Rows) -> Rows:
        return Rows(
            *(
                np.concatenate([getattr(self, n), getattr(other, n)])
                for n in ("positions", "targets", "weights")
            )
        )


@dataclass(frozen=True)
class FoldData:
    """One fold as folds.csv has it. No row of `valid` is in `train` or `stop`, so no choice is made on it."""

    store: ImageStore
    outputs: list[str]
    train: Rows
    stop: Rows  # rows of the training folds that only decide when to stop; empty when early stopping is off
    valid: Rows
    valid_index: np.ndarray  # rows of folds.csv
    stop_truth: np.ndarray
    valid_truth: np.ndarray


def load_fold(config: Config, task: Task, fold: int) -> FoldData:
    """Read folds.csv and the image store for fold `fold`; raises `UserError` where the two do not belong
    together."""
    store = open_images(images_step(config))
    table = read_folds(config)
    if table["id"].tolist() != store.train_ids:
        raise UserError("data/folds.csv and the image cache list different rows; run `make folds` again")
    outputs = read_json(config.root / "data" / "dataset.json")["outputs"]
    labels = targets_in(table)
    targets, truth = task.encode(labels, outputs), task.truth(labels, outputs)
    held_out = (table["fold"] == fold).to_numpy()
    stops = (table["stop"] == fold % config.cv.stop_parts).to_numpy() & ~held_out
    if not config.train.early_stopping.enabled:
        stops[:] = False

    def rows(mask: np.ndarray) -> Rows:
        return Rows(store.train[mask], targets[mask], np.ones(mask.sum(), np.float32))

    return FoldData(
        store=store,
        outputs=outputs,
        train=rows(~held_out & ~stops),
        stop=rows(stops),
        valid=rows(held_out),
        valid_index=np.flatnonzero(held_out),
        stop_truth=truth[stops],
        valid_truth=truth[held_out],
    )


def read_folds(config: Config) -> pd.DataFrame:
    """folds.csv: ids and targets as text, fold, stop and group as numbers."""
    path = config.root / "data" / "folds.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
    return table.astype({"fold": int, "stop": int, "group": int})


def load_pseudo_rows(path: Path, store: ImageStore, outputs: list[str], weight: float) -> Rows:
    """The test rows of a selection table as training rows, with the targets written there."""
    table = pd.read_parquet(path)
    place = dict(zip(store.test_ids, store.test, strict=True))
    positions = np.array([place[name] for name in table["id"]], dtype=np.int64)
    return Rows(positions, table[outputs].to_numpy(np.float32), np.full(len(table), weight, np.float32))


class Epochs(Sampler):
    """The batches of an epoch as (seed, rows); the order comes from (seed, epoch), so a resumed epoch is the
    same one.

    A last batch of one row is left out: batch norm cannot take it.
    """

    def __init__(self, n_rows: int, batch_size: int, seed: int):
        self.n_rows, self.batch_size, self.seed, self.epoch = n_rows, batch_size, seed, 0

    def batches(self) -> list[np.ndarray]:
        """Row numbers of each batch of the current epoch."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n_rows)
        cut = [order[i : i + self.batch_size] for i in range(0, self.n_rows, self.batch_size)]
        return cut[:-1] if len(cut) > 1 and len(cut[-1]) == 1 else cut

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        for number, rows in enumerate(self.batches()):
            yield int(np.random.SeedSequence([self.seed, self.epoch, number]).generate_state(1)[0]), rows

    def __len__(self) -> int:
        return len(self.batches())


class TrainingBatches(Dataset):
    """Whole augmented batches: images (B, C, H, W) uint8, targets (B, C), weights (B,)."""

    def __init__(self, rows: Rows, store: ImageStore, config: Config):
        from src.data.augment import (
            augment_batch,
            create_augmentation,
        )  # albumentations: prediction does without

        self.rows, self.store, self.augment = rows, store, augment_batch
        self.pipeline = create_augmentation(config.augment, config.data.image_size)

    def __getitem__(self, item: tuple[int, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        seed, rows = item
        images = self.augment(self.pipeline, self.store.pixels[self.rows.positions[rows]], seed)
        return (
            to_tensor(images),
            torch.from_numpy(self.rows.targets[rows]),
            torch.from_numpy(self.rows.weights[rows]),
        )


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """(B, H, W, C) uint8 to (B, C, H, W) uint8 without a copy; the memory stays channels-last."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def training_loader(
    rows: Rows, store: ImageStore, config: Config, workers: int, seed: int, pin_memory: bool = False
) -> tuple[DataLoader, Epochs]:
    """The loader of a fold's training batches, and the sampler whose `epoch` must be set before each pass."""
    sampler = Epochs(len(rows), config.train.batch_size, seed)
    context = ("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn") if workers else None
    loader = DataLoader(
        TrainingBatches(rows, store, config),
        sampler=sampler,
        batch_size=None,  # a sampler of whole batches: one fetch, one buffer
        num_workers=workers,
        multiprocessing_context=context,  # forkserver, Python 3.14's default, imports everything again: 15 s
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )
    return loader, sampler


def evaluation_batches(store: ImageStore, positions: np.ndarray, batch_size: int) -> Iterator[torch.Tensor]:
    """Images (B, C, H, W) uint8 in the order of `positions`, every row once, none padded."""
    for start in range(0, len(positions), batch_size):
        yield to_tensor(store.pixels[positions[start : start + batch_size]])
