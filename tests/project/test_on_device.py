"""Augmentation on the device makes of the same draws the same pictures as that on the CPU."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from competitions import prepare_competition

from src.config import Config
from src.configfile import load_config
from src.data.augment import augment_batch, augment_with_masks, create_augmentation
from src.data.loaders import load_fold
from src.data.on_device import OnDevice
from src.maps import UNSURE
from src.tasks import create_task
from src.training.trainer import Trainer

SIDE, N = 48, 12
PLAIN = {"hflip": 0.0, "crop_scale": (1.0, 1.0), "on_device": True}
ALL = {
    "hflip": 0.5,
    "vflip": 0.5,
    "d4": 0.5,
    "crop_scale": (0.4, 1.0),
    "rotate": 30,
    "shift": 0.1,
    "zoom": 0.2,
    "brightness": 0.3,
    "contrast": 0.3,
    "cutout": 0.7,
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def smooth(n: int = N, side: int = SIDE, channels: int = 3) -> np.ndarray:
    """(n, side, side, C) without edges, where two interpolations agree to a level or two."""
    few = np.random.default_rng(0).integers(0, 256, (n, 6, 6, channels), dtype=np.uint8)
    large = [cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) for image in few]
    return np.stack(large).reshape(n, side, side, channels)


def both(images: np.ndarray, size: int = SIDE, part=None, masks=None, **settings) -> tuple:
    """What the CPU makes of them and what the device does, each (B, S, S, C)."""
    data = {"image_size": size} | ({"cache_size": images.shape[1]} if images.shape[1] > size else {})
    config = Config(data=data, augment={**PLAIN, **settings})
    pipeline = create_augmentation(config.augment, size, images.shape[1], images.shape[3])
    device = OnDevice(config, images.shape[3])
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    if masks is None:
        made, _ = device(tensor, torch.zeros(len(images), 1), 7, part)
        return augment_batch(pipeline, images, 7, part), made.permute(0, 2, 3, 1).numpy()
    made, moved = device(tensor, torch.from_numpy(masks).permute(0, 3, 1, 2), 7, part)
    wanted = augment_with_masks(pipeline, images, masks, 7, part)
    return wanted, (made.permute(0, 2, 3, 1).numpy(), moved.permute(0, 2, 3, 1).numpy())


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other.astype(int))


@pytest.mark.parametrize(
    "settings",
    [
        {"hflip": 0.5},
        {"vflip": 0.5},
        {"d4": 1.0},
        {"crop_scale": (0.3, 0.9)},
        {"rotate": 40},
        {"shift": 0.2},
        {"zoom": 0.3},
        {"brightness": 0.5},
        {"contrast": 0.5},
        {"cutout": 0.5},
        ALL,
    ],
    ids=lambda settings: "+".join(settings) if len(settings) == 1 else "all",
)
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_the_pictures_are_those_of_the_cpu(settings, channels):
    images = smooth(channels=channels)
    wanted, found = both(images, **settings)
    assert found.shape == wanted.shape
    assert found.dtype == np.uint8
    assert np.quantile(apart(wanted, found), 0.99) <= 3
    assert not np.array_equal(found, images)  # something was done


@pytest.mark.parametrize("settings", [{"hflip": 0.5}, {"vflip": 0.5}, {"d4": 1.0}, {"brightness": 0.4}])
def test_mirrors_and_light_are_those_of_the_cpu_to_the_bit(settings):
    images = np.random.default_rng(1).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)
    wanted, found = both(images, **settings)
    assert apart(wanted, found).max() <= (1 if "brightness" in settings else 0)  # a half may round either way
    assert (wanted == found).mean() > 0.999


@pytest.mark.parametrize("crop", ["random", "centre", "resized"])
def test_crops_of_a_larger_cache_are_cut_at_the_same_place(crop):
    images = np.random.default_rng(1).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)
    if crop == "resized":
        images = smooth()
    wanted, found = both(images, size=32, crop=crop, crop_scale=(0.5, 1.0))
    assert found.shape == (N, 32, 32, 3)
    assert np.quantile(apart(wanted, found), 0.99) <= (3 if crop == "resized" else 0)


def test_masks_move_with_their_images_and_get_no_level_between():
    images = smooth()
    masks = np.where(images[..., :2] > 127, np.uint8(255), np.uint8(0))
    (_, wanted), (_, found) = both(images, masks=masks, **ALL)
    assert set(np.unique(found)) <= {0, 255, UNSURE}
    assert (found == UNSURE).any()
    assert (found == wanted).mean() > 0.97  # at an edge a nearest pixel may be another


def test_a_part_of_a_batch_gets_what_it_would_get_in_the_whole():
    images = smooth()
    _, whole = both(images, **ALL)
    _, part = both(images[4:8], part=(4, N), **ALL)
    assert np.array_equal(part, whole[4:8])


def test_what_is_done_one_by_one_is_refused():
    for name, value in (("policy", "randaugment"), ("erasing", 0.5), ("hue", 0.1), ("blur", 0.5)):
        with pytest.raises(ValueError, match=f"augment.{name} is done image by image"):
            Config(augment={name: value, "on_device": True})


@pytest.mark.parametrize("task", ["multiclass", "segmentation"])
def test_training_learns_from_what_the_loaders_would_have_made(tmp_path, task):
    path = prepare_competition(tmp_path, task, 32, 60, n_test=8)
    shown = {}
    for on_device in ("null", "true"):
        overrides = [f"augment.on_device={on_device}", *(f"augment.{k}={v}" for k, v in TRAINED.items())]
        config = load_config(path, overrides)
        data = load_fold(config, create_task(config), 0)
        trainer = Trainer(config, create_task(config), data, data.train, 0, torch.device("cpu"))
        trainer.sampler.epoch = 2
        batches = enumerate(trainer.loader)
        shown[on_device] = [trainer.prepare_batch(batch, 2, number) for number, batch in batches]
        row = trainer.train_epoch(0, lambda *a, **k: None)
        assert np.isfinite(row["train_loss"])
    for (images, targets, weights), (others, moved, same) in zip(*shown.values(), strict=True):
        assert others.shape == images.shape
        assert torch.quantile((images.float() - others.float()).abs(), 0.9) <= 12  # digits are all edges
        assert torch.equal(weights, same)
        alike = (targets.nan_to_num(-1) == moved.nan_to_num(-1)).float().mean()
        assert alike > (0.93 if task == "segmentation" else 0.9999)


TRAINED = {"rotate": 10, "hflip": 0.5, "crop_scale": "[0.6,1.0]", "brightness": 0.2, "cutout": 0.5}
