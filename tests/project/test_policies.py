"""AutoAugment, RandAugment and TrivialAugment: torchvision's own, but drawn from our seeds alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from src.config import Augment, Config
from src.configfile import load_config
from src.data.augment import augment_batch, create_augmentation
from src.data.images import ImageStore
from src.data.loaders import TrainingRows, training_loader
from src.data.policies import create_policy

THEIRS = {
    "autoaugment": (v2.AutoAugment, {}),
    "randaugment": (v2.RandAugment, {"num_ops": 2, "magnitude": 9}),
    "trivialaugment": (v2.TrivialAugmentWide, {}),
}
OFF = {"hflip": 0.0, "crop_scale": (1.0, 1.0)}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def photographs(n: int, size: int = 32) -> np.ndarray:
    """(n, size, size, 3) smooth colours, in which every operation shows."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((size, size), Image.BICUBIC)) for one in small])


@pytest.mark.parametrize("name", THEIRS)
def test_a_policy_is_torchvisions_with_the_same_draws(name):
    kind, options = THEIRS[name]
    ours, theirs = create_policy(Augment(policy=name)), kind(fill=128, **options)
    for seed, image in enumerate(photographs(30)):
        torch.manual_seed(seed)
        assert np.array_equal(ours.apply(image, seed=seed), np.asarray(theirs(Image.fromarray(image))))


def test_randaugment_obeys_its_two_knobs():
    images = photographs(20)
    gentle, hard = (
        create_policy(Augment(policy="randaugment", operations=n, magnitude=m)) for n, m in ((1, 0), (3, 25))
    )
    theirs = v2.RandAugment(3, 25, fill=128)
    for seed, image in enumerate(images):
        torch.manual_seed(seed)
        assert np.array_equal(hard.apply(image, seed=seed), np.asarray(theirs(Image.fromarray(image))))
    change = [
        np.mean([np.abs(p.apply(i, seed=s).astype(int) - i).mean() for s, i in enumerate(images)])
        for p in (gentle, hard)
    ]
    assert change[0] < 0.5 * change[1]


@pytest.mark.parametrize("name", THEIRS)
def test_torchs_own_stream_is_left_as_it_was_so_that_dropout_repeats(name):
    pipeline = create_augmentation(Augment(**OFF, policy=name), 32)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    augment_batch(pipeline, photographs(8), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", THEIRS)
def test_every_image_is_drawn_for_alone_and_all_from_the_seed(name):
    pipeline = create_augmentation(Augment(**OFF, policy=name), 32)
    images = np.repeat(photographs(1), 40, axis=0)
    first = augment_batch(pipeline, images, seed=1)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    assert len(np.unique(first.reshape(40, -1), axis=0)) > 8
    torch.manual_seed(99)  # what torch's stream is at does not matter
    assert np.array_equal(augment_batch(pipeline, images, seed=1), first)
    assert not np.array_equal(augment_batch(pipeline, images, seed=2), first)


def batches(project, workers: int, epoch: int) -> list[torch.Tensor]:
    overrides = ["train.batch_size=12", "augment.policy=trivialaugment", "data.image_size=32"]
    config: Config = load_config(project / "configs" / "baseline.yaml", overrides)
    everything, pixels = np.arange(48), np.repeat(photographs(1), 48, axis=0)
    store = ImageStore(pixels, everything, everything[:0], [], [], (0.5,) * 3, (1,) * 3)
    rows = TrainingRows(everything, np.eye(48, dtype=np.float32), np.ones(48, np.float32))
    loader, sampler = training_loader(rows, store, config, workers, seed=1)
    sampler.epoch = epoch
    return [images for images, _, _ in loader]


def test_draws_are_the_same_for_any_number_of_workers_and_differ_between_epochs_and_batches(project):
    here = [batches(project, 0, epoch) for epoch in (0, 1)]
    for epoch in (0, 1):
        there = batches(project, 2, epoch)
        assert all(torch.equal(a, b) for a, b in zip(here[epoch], there, strict=True))
    kinds = [torch.cat(epoch).flatten(1).unique(dim=0) for epoch in here]
    assert not torch.equal(torch.cat(here[0]), torch.cat(here[1]))
    assert not torch.equal(here[0][0], here[0][1])
    assert min(len(kind) for kind in kinds) > 24
