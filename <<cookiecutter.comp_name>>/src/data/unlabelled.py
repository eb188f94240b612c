"""Images that nobody labelled, each in two views: a plain one for a teacher, a strong one for its pupil.

| task | plain view | strong view |
|---|---|---|
| one answer an image | mirrored and turned alone, as `augment` has it | all of `augment`, a policy, cutout |
| masks | all of `augment` that moves pixels | the very same, its colours and light changed, cutout |

Of images the two are moved apart from each other. Of masks they are moved alike, so that what is said of a
pixel is said of that pixel; what is erased in the strong view is marked, for nobody can see what was there.
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

_STREAM = 3  # beside the seed: draws of their own, unlike those of labelled rows
LIGHT = 0.3  # brightness and contrast of a strong view where no policy can be: masks, other than RGB
Views = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def unlabelled_positions(store: ImageStore) -> np.ndarray:
    """Where in the store the images lie that may be learned from without a label: those of the test rows.
    Never those of training rows, whose folds are held out in turn."""
    return store.test


class UnlabelledViews(Dataset):
    """Whole batches by (seed, rows): plain and strong views (B, C, H, W) uint8, and what of the strong view
    can be seen, bool (B, 1, H, W) of masks and (B, 1) else."""

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
    """What a teacher of one answer an image is shown; `cropped` says that the cache is larger than images
    are."""
    crop = "random" if cropped and augment.crop != "centre" else augment.crop if cropped else None
    mirrors = {name: getattr(augment, name) for name in ("hflip", "vflip", "d4")}
    return Augment(crop_scale=(1.0, 1.0), crop=crop, **mirrors)


def strong_view(config: Config, channels: int) -> Augment:
    """What the pupil is shown: the run's own augmentation, a policy, and an erased square. A policy moves
    pixels and wants three channels; elsewhere the light changes in its place."""
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
    """A fixed number of batches an epoch as (seed, rows), from batch `first` on: one random order of all rows
    after the other, from (seed, epoch), so that no row comes twice before all came once; with `shards` (N,)
    shard by shard."""

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
    """The loader of `n_batches` an epoch, and the sampler whose `epoch` must be set before each pass."""
    positions = unlabelled_positions(store)
    if not len(positions):
        raise UserError("consistency: there is no test image to learn from; set consistency=null")
    size = max(2, round(config.consistency.ratio * config.train.batch_size))  # batch norm cannot take one
    shards = positions // SHARD if config.data.storage == "shards" else None
    sampler = UnlabelledSampler(len(positions), size, n_batches, seed, shards)
    return create_loader(UnlabelledViews(positions, store, config), sampler, workers, pin_memory), sampler
