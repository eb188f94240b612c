"""Data loading: the rows of one fold, the batch sampler, and batches of uint8 images read from the packed
cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from src.config import Config, UserError
from src.data.batches import identity_batches, n_identity_batches
from src.data.classes import ClassTargets, taken, targets_of
from src.data.domain import check_domain
from src.data.extra import with_extra
from src.data.images import ImageStore, open_images
from src.data.mask_targets import MaskTargets, PseudoMasks
from src.data.masks import open_masks
from src.data.sampling import by_shards, draw_rows, row_shares
from src.data.store_writers import SHARD
from src.data.workers import create_loader
from src.reading import damaged, decoding, read_csv, read_dataset, read_parquet
from src.steps import Run, images_step
from src.tasks.base import Task, targets_in


@dataclass(frozen=True)
class TrainingRows:
    """The rows a model trains or validates on: positions (N,) in the image store, targets (N, C) float32 (or
    `ClassTargets` or `MaskTargets`), and loss weights (N,)."""

    positions: np.ndarray
    targets: np.ndarray | ClassTargets | MaskTargets
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def part(self, mine: slice) -> TrainingRows:
        """The rows of a slice. Target masks are not read from disk."""
        return TrainingRows(self.positions[mine], taken(self.targets, mine), self.weights[mine])

    def __add__(self, other: TrainingRows) -> TrainingRows:
        dense = isinstance(self.targets, np.ndarray)
        targets = np.concatenate([self.targets, other.targets]) if dense else self.targets + other.targets
        positions, weights = (
            np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("positions", "weights")
        )
        return TrainingRows(positions, targets, weights)


@dataclass(frozen=True)
class FoldData:
    """The data of one fold as defined by folds.csv. No row of `valid` is in `train` or `stop`, so no training
    decision depends on the validation fold. For retrieval `stop` and `valid` omit identities without a
    training image; `stop_index` and `valid_index` list all rows."""

    store: ImageStore
    outputs: list[str]
    train: TrainingRows
    stop: TrainingRows  # the early-stopping split of the training folds; empty when early stopping is off
    valid: TrainingRows
    train_index: np.ndarray  # row numbers of folds.csv
    stop_index: np.ndarray
    valid_index: np.ndarray
    stop_truth: Any
    valid_truth: Any


def load_fold(config: Config, task: Task, fold: int) -> FoldData:
    """Read folds.csv and the image store for fold `fold`. Raises `UserError` when the two list different
    rows."""
    store = with_extra(open_images(config), config)
    # segmentation predicts masks for the whole image
    if config.data.cache_size is not None and task.kind != "maps":
        store = replace(store, seen=config.data.image_size)
    table = read_folds(config)
    if table["id"].tolist() != store.train_ids:
        raise UserError("data/folds.csv and the image cache list different rows; run `make folds` again")
    outputs = read_dataset(config.root)["outputs"]
    labels = targets_in(table)
    # the metric may have changed since stage 01
    check_domain(config, task, labels, config.root / "data" / "folds.csv")
    if task.kind == "maps":
        targets = MaskTargets.of(open_masks(images_step(config).folder), np.arange(len(table)))
    else:
        targets, truth = targets_of(task, labels, outputs), task.truth(labels, outputs)
    held_out = (table["fold"] == fold).to_numpy()
    stops = (table["stop"] == fold % config.cv.stop_parts).to_numpy() & ~held_out
    if not config.train.early_stopping.enabled:
        stops[:] = False
    index = [np.flatnonzero(mask) for mask in (~held_out & ~stops, stops, held_out)]

    def rows(places: np.ndarray) -> TrainingRows:
        return TrainingRows(store.train[places], taken(targets, places), np.ones(len(places), np.float32))

    train, stop, valid = (rows(places) for places in index)
    if task.kind == "rankings":  # validation during training cannot find an identity without a training image
        known = np.unique(train.targets)
        index[1:] = [places[np.isin(targets[places, 0], known)] for places in index[1:]]
        stop, valid = (rows(places) for places in index[1:])
    return FoldData(
        store=store,
        outputs=outputs,
        train=train,
        stop=stop,
        valid=valid,
        train_index=index[0],
        stop_index=np.flatnonzero(stops),
        valid_index=np.flatnonzero(held_out),
        stop_truth=stop.targets.masks() if task.kind == "maps" else truth[index[1]],
        valid_truth=valid.targets.masks() if task.kind == "maps" else truth[index[2]],
    )


def read_folds(config: Config) -> pd.DataFrame:
    """Read folds.csv: ids and targets as text; fold, stop and group as integers."""
    path = config.root / "data" / "folds.csv"
    numbers = {"fold": int, "stop": int, "group": int}
    table = read_csv(path, ("id", *numbers), dtype=str, keep_default_na=False, na_filter=False)
    with decoding(path):
        return table.astype(numbers)


def training_rows(run: Run, task: Task, fold: int, data: FoldData) -> TrainingRows:
    """The training rows of fold `fold` of a run, plus the pseudo-labels in a pseudo-label round."""
    path = run.pseudo_labels(fold)
    if path is None:
        return data.train
    return data.train + load_pseudo_rows(path, task, data.store, data.outputs, run.config)


def load_pseudo_rows(
    path: Path, task: Task, store: ImageStore, outputs: list[str], config: Config
) -> TrainingRows:
    """The rows of a pseudo-label table (test images or external images) as training rows, with the targets
    and weights of the table."""
    table = read_parquet(path)
    place = dict(zip([*store.test_ids, *store.extra_ids], [*store.test, *store.extra], strict=True))
    if lost := [name for name in table["id"] if name not in place]:
        raise damaged(path, f"its id {lost[0]!r} is neither a test row's nor an external image's")
    positions = np.array([place[name] for name in table["id"]], dtype=np.int64)
    if task.kind == "maps":
        targets = MaskTargets.of(PseudoMasks(task.read(table, outputs), config.data), np.arange(len(table)))
    elif task.kind == "rankings":
        targets = task.hard_targets(table, outputs)
    else:
        targets = table[outputs].to_numpy(np.float32)
    weights = table["pseudo.weight"].to_numpy(np.float32) if "pseudo.weight" in table else np.ones(len(table))
    return TrainingRows(positions, targets, np.float32(config.pseudo.weight * weights))


class EpochSampler(Sampler):
    """Batch sampler: yields the batches of an epoch as (seed, rows), starting at batch `first`. The order
    depends only on (seed, epoch), so a resumed epoch has the same batches.

    With `labels` (N,) each batch is a PK batch: P identities with `images_per_class` rows each. With `shares`
    (N,) rows are drawn in proportion to their share, and the epoch keeps its length (oversampling). With
    `shards` (N,) rows come shard by shard, so that a disk reads them sequentially. A last batch of one row is
    dropped, because batch norm cannot use it. In distributed training (`part`: rank, world size) each process
    gets its part of every batch as (seed, rows, (first, n)).
    """

    def __init__(
        self,
        n_rows: int,
        batch_size: int,
        seed: int,
        labels: np.ndarray | None = None,
        images_per_class: int = 1,
        shares: np.ndarray | None = None,
        part: tuple[int, int] = (0, 1),
        shards: np.ndarray | None = None,
    ):
        self.shards = shards
        self.rank, self.ranks = part  # rank and number of the processes that share every batch
        self.n_rows, self.batch_size, self.seed, self.epoch, self.first = n_rows, batch_size, seed, 0, 0
        self.labels, self.images_per_class, self.shares = labels, images_per_class, shares

    def batches(self) -> list[np.ndarray]:
        """Row numbers of each batch of the current epoch."""
        random = np.random.default_rng([self.seed, self.epoch])
        if self.labels is not None:
            return identity_batches(self.labels, self.batch_size, self.images_per_class, random)
        if self.shards is not None:
            order = by_shards(self.shards, random)
        else:
            order = random.permutation(self.n_rows) if self.shares is None else draw_rows(self.shares, random)
        cut = [order[i : i + self.batch_size] for i in range(0, self.n_rows, self.batch_size)]
        return cut[:-1] if len(cut) > 1 and len(cut[-1]) == 1 else cut

    def __iter__(self) -> Iterator[tuple]:
        for number, rows in enumerate(self.batches()[self.first :], self.first):
            seed, mine = self.seed_of(number), self.mine(len(rows))
            yield (seed, rows) if self.ranks == 1 else (seed, rows[mine], (mine.start, len(rows)))

    def mine(self, n: int) -> slice:
        """The slice of a batch of n rows that belongs to this process; the sizes of two processes differ by
        at most one."""
        return slice(n * self.rank // self.ranks, n * (self.rank + 1) // self.ranks)

    def part_of(self, number: int) -> tuple[int, int] | None:
        """(first row, n): where the part of this process begins in batch `number`, and the size n of the
        whole batch. None if there is only one process."""
        n = min(self.batch_size, self.n_rows - number * self.batch_size)
        return None if self.ranks == 1 else (self.mine(n).start, n)

    def seed_of(self, number: int) -> int:
        """The random seed of a batch of the current epoch; every random draw for the batch derives from
        it."""
        return int(np.random.SeedSequence([self.seed, self.epoch, number]).generate_state(1)[0])

    def __len__(self) -> int:
        if self.labels is not None:
            return n_identity_batches(self.labels, self.batch_size, self.images_per_class)
        whole, rest = divmod(self.n_rows, self.batch_size)
        return whole + (rest > 1 or whole == 0)


def create_sampler(
    rows: TrainingRows, config: Config, seed: int, part: tuple[int, int] = (0, 1)
) -> EpochSampler:
    """The sampler for the task, the loss and `train.sampling`; `part` is (rank, number of processes)."""
    targets, labels, kind = rows.targets, None, config.train.sampling
    if config.identities:
        labels = targets[:, 0] if targets.shape[1] == 1 else targets.argmax(1)
    shares = None if kind is None else row_shares(targets, kind, config.task.name)
    streams = config.data.storage == "shards" and labels is None and shares is None
    shards = rows.positions // SHARD if streams else None
    settings = config.train
    return EpochSampler(
        len(rows), settings.batch_size, seed, labels, settings.images_per_class, shares, part, shards
    )


class TrainingBatches(Dataset):
    """Dataset of whole augmented batches: images (B, C, H, W) uint8, targets (B, C) float32 or masks (B, C,
    H, W) uint8, weights (B,). With `raw` the images are not augmented; the device does that."""

    def __init__(self, rows: TrainingRows, store: ImageStore, config: Config, raw: bool = False):
        # imported here because inference needs no albumentations
        from src.data.augment import create_augmentation

        self.rows, self.store, self.raw = rows, store, raw
        data, channels = config.data, store.pixels.shape[3]
        self.pipeline = create_augmentation(config.augment, data.image_size, data.cached_size, channels)

    def __getitem__(self, item: tuple) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The batch of an item (seed, rows), or (seed, rows, (first, n)) if the rows are a part of a batch of
        n rows."""
        from src.data.augment import augment_batch, augment_with_masks

        seed, rows, *part = item
        part = part[0] if part else None
        images, targets = self.store.views(self.rows.positions[rows]), self.rows.targets[rows]
        if self.raw:
            images = np.stack(images)
        elif targets.ndim == 4:
            images, targets = augment_with_masks(self.pipeline, images, targets, seed, part)
        else:
            images = augment_batch(self.pipeline, images, seed, part)
        return to_tensor(images), target_tensor(targets), torch.from_numpy(self.rows.weights[rows])


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Convert (B, H, W, C) uint8 to (B, C, H, W) uint8 without a copy; the memory format stays
    channels-last."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def training_loader(
    rows: TrainingRows,
    store: ImageStore,
    config: Config,
    workers: int,
    seed: int,
    pin_memory: bool = False,
    part: tuple[int, int] = (0, 1),
) -> tuple[DataLoader, EpochSampler]:
    """The DataLoader of the training batches of a fold, and its sampler; set the sampler's `epoch` before
    each pass."""
    sampler = create_sampler(rows, config, seed, part)
    dataset = TrainingBatches(rows, store, config, raw=bool(config.augment.on_device))
    return create_loader(dataset, sampler, workers, pin_memory), sampler


def evaluation_batches(store: ImageStore, positions: np.ndarray, batch_size: int) -> Iterator[torch.Tensor]:
    """Iterate over images (B, C, H, W) uint8 in the order of `positions`: every row once, no padding."""
    for start in range(0, len(positions), batch_size):
        yield to_tensor(store.look(positions[start : start + batch_size]))


def target_batches(rows: TrainingRows, batch_size: int) -> Iterator[torch.Tensor]:
    """The targets that belong to the batches of `evaluation_batches` of the same rows."""
    for start in range(0, len(rows), batch_size):
        yield target_tensor(rows.targets[start : start + batch_size])


def target_tensor(targets: np.ndarray) -> torch.Tensor:
    """Targets (B, C) unchanged; masks (B, H, W, C) as (B, C, H, W)."""
    return to_tensor(targets) if targets.ndim == 4 else torch.from_numpy(targets)
