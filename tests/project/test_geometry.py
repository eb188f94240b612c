"""Turns, crops and mirrors in one resampling: where each pixel comes from, and how often, against OpenCV step
by step and albumentations' own steps."""

from __future__ import annotations

import random

import albumentations as A
import cv2
import numpy as np
import pytest
from scipy.stats import ks_2samp

from src.config import Augment
from src.data.augment import augment_batch, create_augmentation
from src.data.geometry import Geometry

OFF = {"hflip": 0.0, "crop_scale": (1.0, 1.0)}
SIDE = 96
MOVES = {
    "turned": {"rotate": 40},
    "shifted": {"shift": 0.2},
    "zoomed": {"zoom": 0.3},
    "cropped": {"crop_scale": (0.3, 0.9)},
    "turned, then cropped": {"rotate": 30, "shift": 0.1, "zoom": 0.2, "crop_scale": (0.4, 1.0)},
    "all": {
        "rotate": 30,
        "shift": 0.1,
        "zoom": 0.2,
        "crop_scale": (0.4, 1.0),
        "hflip": 0.5,
        "vflip": 0.3,
        "d4": 0.6,
    },
}


def smooth(n: int, side: int = SIDE, channels: int = 3) -> np.ndarray:
    """(n, side, side, channels) waves of some twenty pixels, which resampling hardly changes."""
    coarse = np.random.default_rng(1).integers(0, 256, (n, side // 12, side // 12, channels)).astype(np.uint8)
    drawn = [cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in coarse]
    return np.stack([cv2.GaussianBlur(one, (0, 0), 4).reshape(side, side, channels) for one in drawn])


def step_by_step(
    image: np.ndarray, turn: np.ndarray | None, window: np.ndarray, symmetry: np.ndarray, size: int
):
    """The same moves of one image in as many resamplings, by OpenCV and numpy."""
    if turn is not None:
        forth = np.linalg.inv(turn)[:2]
        image = cv2.warpAffine(image, forth, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
    top, left, height, width = window
    image = cv2.resize(image[top : top + height, left : left + width], (size, size))
    transposed, upside, mirrored = symmetry
    image = image.transpose(1, 0, 2) if transposed else image
    image = image[::-1] if upside else image
    return image[:, ::-1] if mirrored else image


@pytest.mark.parametrize("size", [SIDE, 64])
@pytest.mark.parametrize("settings", MOVES.values(), ids=MOVES)
def test_one_resampling_puts_every_pixel_where_the_steps_put_it(settings, size):
    images, geometry = smooth(30), Geometry(Augment(**OFF | settings, crop="resized"), size, SIDE)
    moves = geometry.draw(np.random.default_rng(0), 30)
    found = geometry(images, moves).astype(int)
    for i, image in enumerate(images):
        turn = None if moves.turns is None else moves.turns[i]
        expected = step_by_step(image, turn, moves.windows[i], moves.symmetries[i], size).astype(int)
        assert np.abs(found[i] - expected).mean() < 1
        assert np.abs(found[i] - expected).max() < 12  # where the mirrored border has a crease


def test_one_resampling_blurs_less_than_two():
    noise = np.random.default_rng(0).integers(0, 256, (20, SIDE, SIDE, 3), dtype=np.uint8)
    geometry = Geometry(Augment(**OFF | MOVES["turned, then cropped"]), SIDE, SIDE)
    moves = geometry.draw(np.random.default_rng(0), 20)
    steps = [
        step_by_step(*each, SIDE)
        for each in zip(noise, moves.turns, moves.windows, moves.symmetries, strict=True)
    ]
    assert geometry(noise, moves).std() > 1.2 * np.stack(steps).std()


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 9])
def test_a_channel_moves_the_same_whatever_lies_beside_it(channels):
    images, geometry = smooth(6, channels=9), Geometry(Augment(**MOVES["all"]), 64, SIDE)
    moves = geometry.draw(np.random.default_rng(2), 6)
    three = np.concatenate([geometry(images[..., c : c + 3].copy(), moves) for c in (0, 3, 6)], axis=3)
    alone = geometry(images[..., :channels].copy(), moves)
    np.testing.assert_allclose(
        alone.astype(int), three[..., :channels], atol=1
    )  # OpenCV rounds by its own way


def albumentations_steps(settings: dict, cached: int, size: int) -> A.Compose:
    """What the settings meant when each was a step of albumentations."""
    s, steps = Augment(**OFF | settings), []
    if s.rotate or s.shift or s.zoom:
        steps.append(
            A.Affine(
                rotate=(-s.rotate, s.rotate),
                translate_percent=(-s.shift, s.shift),
                scale=(1 - s.zoom, 1 + s.zoom),
                border_mode=cv2.BORDER_REFLECT_101,
                p=1.0,
            )
        )
    if s.crop == "random":
        steps.append(A.RandomCrop(size, size, p=1.0))
    elif tuple(s.crop_scale) != (1.0, 1.0):
        steps.append(A.RandomResizedCrop((size, size), scale=s.crop_scale, ratio=s.crop_ratio, p=1.0))
    mirrors = [A.D4(p=s.d4 or 0), A.HorizontalFlip(p=s.hflip), A.VerticalFlip(p=s.vflip)]
    pipeline = A.Compose([*steps, *mirrors])
    pipeline.set_random_state(np.random.default_rng(5), random.Random(5))  # a seed alone couples all coins
    return pipeline


@pytest.mark.parametrize(
    "settings",
    [
        *MOVES.values(),
        {"crop": "random", "hflip": 0.5},
        {"crop_scale": (0.05, 1.0), "crop_ratio": (0.3, 3.0)},
    ],
    ids=[*MOVES, "random crop", "crops of which many do not fit"],
)
def test_views_are_drawn_as_albumentations_draws_them(settings):
    """Corners and the middle of an image whose colour says which pixel it was: their places have the same
    distribution (Kolmogorov and Smirnov's test of 1,500 draws each)."""
    n, side = 1500, 64
    size = 48 if settings.get("crop") == "random" else side
    ramp = np.tile(np.arange(side, dtype=np.uint8) * 4, (side, 1))
    image = np.stack([ramp, ramp.T, np.zeros_like(ramp)], axis=2)
    ours = augment_batch(
        create_augmentation(Augment(**OFF | settings), size, side), np.repeat(image[None], n, axis=0), 3
    )
    steps = albumentations_steps(settings, side, size)
    theirs = np.stack([steps(image=image)["image"] for _ in range(n)])
    for y, x in ((0, 0), (0, size - 1), (size // 2, size // 2), (size - 1, size // 3)):
        for channel in (0, 1):
            # to whole pixels, as which albumentations draws its shifts
            one, other = (np.rint(found[:, y, x, channel] / 4) for found in (ours, theirs))
            chance = ks_2samp(one, other).pvalue
            assert chance > 1e-3, (y, x, channel)


def test_light_is_drawn_and_applied_as_albumentations_does():
    n, grey = 1500, np.full((4, 4, 3), 100, np.uint8)
    grey[:, 2:] = 160
    pipeline = create_augmentation(Augment(**OFF, brightness=0.2, contrast=0.3), 4)
    ours = augment_batch(pipeline, np.repeat(grey[None], n, axis=0), seed=1).astype(int)
    step = A.Compose([A.RandomBrightnessContrast((-0.2, 0.2), (-0.3, 0.3), p=1.0)], seed=2)
    theirs = np.stack([step(image=grey)["image"] for _ in range(n)]).astype(int)
    for found in (lambda x: x[:, 0, 0, 0], lambda x: x[:, 0, 3, 0] - x[:, 0, 0, 0]):
        assert ks_2samp(found(ours), found(theirs)).pvalue > 1e-3
    assert ours[:, 0, 0].max() <= 255
    dark = augment_batch(pipeline, np.zeros((200, 4, 4, 3), np.uint8), seed=1)
    assert dark.max() <= 52  # nothing below black comes round to white
