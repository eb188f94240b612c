"""Unlabelled images in two views (FixMatch, mean teacher): a weak view for the teacher, a strong view for the
student.

| task | weak (plain) view | strong view |
|---|---|---|
| one answer per image | only the flips and rotations of `augment` | all of `augment`, a policy, cutout |
| segmentation | the geometric transforms of `augment` | the same ones, plus colour transforms and cutout |

For image-level tasks the two views are transformed independently. For segmentation both have the same
geometry, so that predictions match pixel by pixel; erased pixels of the strong view are marked, because their
content cannot be seen. The training loop is in src/training/consistency.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from src.config import Augment, Config, UserError
from src.data.images import ImageStore
from src.data.loaders import to_tensor
from src.data.sampling import by_shards
from src.data.store_writers import SHARD
from src.data.workers import create_loader
from src.maps import UNSURE

_STREAM = 3  # combined with the seed: a random stream separate from labelled rows
# brightness and contrast of the strong view where no policy is possible: segmentation, or images other than
# RGB
LIGHT = 0.3
Views = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def unlabelled_positions(store: ImageStore) -> np.ndarray:
    """Positions in the store of the images used without a label: the test images. Training images are
    excluded, because their folds are held out in turn."""
    return store.test


class UnlabelledViews(Dataset):
    """Dataset of whole batches by (seed, rows): weak and strong views (B, C, H, W) uint8, and a bool mask of
    the visible part of the strong view, (B, 1, H, W) for segmentation, otherwise (B, 1)."""

    def __init__(self, positions: np.ndarray, store: ImageStore, config: Config):
        from src.data.augment import create_augmentation, create_halves  # albumentations: see loaders.py

        self.positions, self.store = positions, store
        self.maps = config.task.name == "segmentation"
        data, channels = config.data, store.pixels.shape[3]
        sizes = (data.image_size, data.cached_size, channels)
        strong = strong_view(config, channels)
        if self.maps:
            self.plain, self.strong = create_halves(strong, *sizes)
        else:
            self.plain = create_augmentation(plain_view(config.augment, data.cache_size is not None), *sizes)
            self.strong = create_augmentation(strong, *sizes)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: tuple[int, np.ndarray]) -> Views:
        from src.data.augment import augment_batch, augment_with_masks

        seed, rows = item
        apart = int(np.random.SeedSequence([seed, _STREAM]).generate_state(1)[0])
        images = self.store.views(self.positions[rows])
        plain = augment_batch(self.plain, images, seed)
        if not self.maps:
            strong = augment_batch(self.strong, images, apart)
            return to_tensor(plain), to_tensor(strong), torch.ones(len(rows), 1, dtype=torch.bool)
        nothing = np.zeros((*plain.shape[:3], 1), np.uint8)  # (B, H, W, 1)
        strong, erased = augment_with_masks(self.strong, plain, nothing, apart)
        return to_tensor(plain), to_tensor(strong), to_tensor(erased != UNSURE)


def plain_view(augment: Augment, cropped: bool) -> Augment:
    """Augmentation of the teacher's weak view for image-level tasks; `cropped` if cached images are larger
    than the input."""
    crop = "random" if cropped and augment.crop != "centre" else augment.crop if cropped else None
    mirrors = {name: getattr(augment, name) for name in ("hflip", "vflip", "d4")}
    return Augment(crop_scale=(1.0, 1.0), crop=crop, **mirrors)


def strong_view(config: Config, channels: int) -> Augment:
    """Augmentation of the student's strong view: the run's own augmentation, a policy, and cutout. A policy
    moves pixels and needs three channels; otherwise brightness and contrast replace it."""
    augment, settings = config.augment, config.consistency
    if settings.policy not in ("auto", "off") and channels != 3:
        raise UserError(
            f"consistency.policy={settings.policy} is for RGB pictures, these images have {channels} "
            f"channel(s); leave it auto"
        )
    changed = {"cutout": settings.cutout}
    if settings.policy == "auto" and augment.policy is None:
        if config.task.name != "segmentation" and channels == 3:
            changed["policy"] = "randaugment"
        else:
            changed |= {name: max(LIGHT, getattr(augment, name)) for name in ("brightness", "contrast")}
    elif settings.policy != "auto":
        changed["policy"] = None if settings.policy == "off" else settings.policy
    return augment.model_copy(update=changed)


class UnlabelledSampler(Sampler):
    """Sampler of a fixed number of batches per epoch as (seed, rows), from batch `first` on. It repeats
    random orders of all rows, drawn from (seed, epoch), so that no row occurs twice before all occurred once;
    with `shards` (N,) shard by shard."""

    def __init__(
        self, n_rows: int, batch_size: int, n_batches: int, seed: int, shards: np.ndarray | None = None
    ):
        self.n_rows, self.batch_size, self.n_batches, self.seed = n_rows, batch_size, n_batches, seed
        self.shards = shards
        self.epoch, self.first = 0, 0

    def batches(self) -> np.ndarray:
        """(n_batches, batch_size) row numbers of the current epoch."""
        random, wanted = np.random.default_rng([self.seed, _STREAM, self.epoch]), len(self) * self.batch_size
        times = range(-(-wanted // self.n_rows))
        if self.shards is None:
            orders = [random.permutation(self.n_rows) for _ in times]
        else:
            orders = [by_shards(self.shards, random) for _ in times]
        return np.concatenate(orders)[:wanted].reshape(len(self), self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        for number, rows in enumerate(self.batches()[self.first :], self.first):
            words = [self.seed, _STREAM, self.epoch, number]
            yield int(np.random.SeedSequence(words).generate_state(1)[0]), rows

    def __len__(self) -> int:
        return self.n_batches


def unlabelled_loader(
    store: ImageStore, config: Config, n_batches: int, workers: int, seed: int, pin_memory: bool = False
) -> tuple[DataLoader, UnlabelledSampler]:
    """The loader of `n_batches` per epoch, and its sampler; set the sampler's `epoch` before each pass."""
    positions = unlabelled_positions(store)
    if not len(positions):
        raise UserError("consistency: there is no test image to learn from; set consistency=null")
    # batch norm cannot use a batch of one
    size = max(2, round(config.consistency.ratio * config.train.batch_size))
    shards = positions // SHARD if config.data.storage == "shards" else None
    sampler = UnlabelledSampler(len(positions), size, n_batches, seed, shards)
    return create_loader(UnlabelledViews(positions, store, config), sampler, workers, pin_memory), sampler
