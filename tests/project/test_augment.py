"""What each pixel trick does, against numpy, OpenCV and the papers' numbers; masks move with their images."""

from __future__ import annotations

import io
import math

import albumentations as A
import cv2
import numpy as np
import pytest
from PIL import Image

from src.config import Augment, UserError
from src.data import augment
from src.data.augment import augment_batch, augment_with_masks, create_augmentation
from src.maps import UNSURE

OFF = {"hflip": 0.0, "crop_scale": (1.0, 1.0)}
EVERYTHING = {
    "hflip": 0.5,
    "vflip": 0.5,
    "d4": 0.5,
    "crop_scale": (0.5, 1.0),
    "rotate": 20,
    "shift": 0.1,
    "zoom": 0.2,
    "brightness": 0.2,
    "contrast": 0.2,
    "hue": 0.1,
    "saturation": 0.3,
    "gamma": 0.3,
    "blur": 0.5,
    "noise": 0.5,
    "compression": 0.5,
    "cutout": 0.5,
    "erasing": 0.5,
}
NEW = ("d4", "hue", "saturation", "gamma", "blur", "noise", "compression", "erasing")
COLOURED = ("hue", "saturation")  # for three channels alone


def images_of(n: int, size: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def made(images: np.ndarray, seed: int = 1, image_size: int | None = None, **settings) -> np.ndarray:
    """The images with these settings and all others off."""
    cached, channels = images.shape[1], images.shape[3]
    pipeline = create_augmentation(Augment(**{**OFF, **settings}), image_size or cached, cached, channels)
    return augment_batch(pipeline, images, seed)


def within(share: float, wanted: float, n: int) -> bool:
    """Whether a share of n draws is within five standard deviations of its probability."""
    return abs(share - wanted) <= 5 * math.sqrt(wanted * (1 - wanted) / n)


# --- all of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [16, 33])
def test_images_of_any_channels_stay_whole_uint8_images(size, channels):
    settings = {k: v for k, v in EVERYTHING.items() if channels == 3 or k not in COLOURED}
    found = made(images_of(6, size, channels), **settings)
    assert found.shape == (6, size, size, channels)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("name", NEW)
def test_each_key_changes_images_and_null_and_0_change_nothing(name):
    images = images_of(6, 24)
    assert not np.array_equal(made(images, **{name: EVERYTHING[name]}), images)
    assert np.array_equal(made(images, **{name: None}), images)
    assert np.array_equal(made(images, **{name: 0.0}), images)


@pytest.mark.parametrize("name", NEW)
def test_a_seed_decides_every_draw(name):
    images = images_of(12, 24)
    first = made(images, seed=1, **{name: EVERYTHING[name]})
    assert np.array_equal(made(images, seed=1, **{name: EVERYTHING[name]}), first)
    assert not np.array_equal(made(images, seed=2, **{name: EVERYTHING[name]}), first)


@pytest.mark.parametrize("name", ["blur", "noise", "compression", "cutout", "erasing"])
def test_a_key_more_leaves_the_draws_of_the_others_as_they_were(name):
    """An image that the coin spares is what it would be without the key."""
    images, moves = images_of(40, 24), {"crop_scale": (0.3, 1.0), "hflip": 0.5, "d4": 0.5, "contrast": 0.3}
    spared = (made(images, **moves) == made(images, **moves, **{name: 0.5})).all((1, 2, 3))
    assert 8 <= spared.sum() <= 32


def test_nothing_of_albumentations_runs_that_was_not_asked_for():
    settings = {k: v for k, v in EVERYTHING.items() if k not in NEW}
    pipeline = create_augmentation(Augment(**settings), 16)
    assert [*pipeline.looks.transforms, *pipeline.erasing.transforms] == []


def test_the_coins_of_two_keys_fall_apart_from_each_other():
    """`Compose.set_random_seed` of albumentations 2.0.8 starts every step from the same number."""
    pair = A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    image, theirs = np.arange(16, dtype=np.uint8).reshape(4, 4, 1), []
    for seed in range(200):
        pair.set_random_seed(seed)
        theirs.append(pair(image=image)["image"])
    both = [np.array_equal(one, image[::-1, ::-1]) or np.array_equal(one, image) for one in theirs]
    assert all(both)  # never one of them alone
    n, grey = 800, np.full((800, 16, 16, 3), 100, np.uint8)
    changed = np.abs(made(grey, noise=0.5, erasing=0.5).astype(int) - 100).max(3)
    grey[:, :8] = 120
    found = made(grey, vflip=0.5, cutout=0.5)
    pairs = {
        "noise and erasing": ((changed > 0).mean((1, 2)) > 0.6, changed.max((1, 2)) > 90),
        "vflip and cutout": (found[:, 0].max((1, 2)) == 100, (found == 0).any((1, 2, 3))),
    }
    for name, (one, other) in pairs.items():
        assert within((one & other).mean(), one.mean() * other.mean(), n), name


@pytest.mark.parametrize("cached", [16, 24])
def test_part_of_a_batch_gets_what_it_gets_in_the_whole(cached):
    """So that several processes may share a batch."""
    images, masks = images_of(11, cached), images_of(11, cached, 2, seed=1)
    pipeline = create_augmentation(Augment(**EVERYTHING, policy="randaugment"), 16, cached)
    whole = augment_with_masks(pipeline, images, masks, seed=4)
    parts = [
        augment_with_masks(pipeline, images[a:b], masks[a:b], seed=4, part=(a, 11))
        for a, b in ((0, 4), (4, 5), (5, 11))
    ]
    for together, apart in zip(whole, zip(*parts, strict=True), strict=True):
        assert np.array_equal(np.concatenate(apart), together)
    assert np.array_equal(augment_batch(pipeline, images[7:], 4, part=(7, 11)), whole[0][7:])


def test_every_step_is_strict_so_that_a_dropped_argument_is_an_error(monkeypatch):
    """albumentations 2 only warns of arguments that it no longer knows, and goes on without them."""
    with pytest.warns(UserWarning, match="max_holes"):
        A.CoarseDropout(max_holes=3)
    with pytest.raises(ValueError, match="max_holes"):
        A.CoarseDropout(max_holes=3, strict=True)
    built = []

    class Recorder:
        def __getattr__(self, name):
            def build(*args, **options):
                built.append((name, options.get("strict")))
                return getattr(A, name)(*args, **options)

            return build

    monkeypatch.setattr(augment, "A", Recorder())
    create_augmentation(Augment(**EVERYTHING), 16)
    strict = {name for name, wanted in built if wanted}
    assert strict == {"ColorJitter", "RandomGamma", "GaussianBlur", "GaussNoise", "Erasing"}
    assert {name for name, _ in built} - strict == {"Compose"}


@pytest.mark.parametrize("name", [*COLOURED, "policy"])
@pytest.mark.parametrize("channels", [1, 4])
def test_what_only_rgb_has_is_refused_for_other_channels(name, channels):
    value = "randaugment" if name == "policy" else 0.1
    with pytest.raises(UserError, match=rf"augment.{name} is for RGB pictures, .* {channels} channel"):
        create_augmentation(Augment(**{name: value}), 16, 16, channels)


# --- masks --------------------------------------------------------------------------------------------------


def scenes(n: int = 24, size: int = 48, classes: int = 1) -> np.ndarray:
    """(n, size, size, classes) masks of 0 and 255: blobs that look different from every side."""
    noise = np.random.default_rng(3).normal(size=(n, size, size, classes)).astype(np.float32)
    smooth = [cv2.GaussianBlur(one, (0, 0), 4).reshape(size, size, classes) for one in noise]
    return (np.stack(smooth) > 0).astype(np.uint8) * 255


MOVES = {
    "hflip": {"hflip": 0.5},
    "vflip": {"vflip": 0.5},
    "d4": {"d4": 1.0},
    "random crop": {"crop": "random", "image_size": 32},
    "centre crop": {"crop": "centre", "image_size": 32},
}
RESAMPLES = {
    "resized crop": {"crop_scale": (0.4, 1.0)},
    "resized crop of the larger": {"crop": "resized", "crop_scale": (0.4, 1.0), "image_size": 32},
    "rotate": {"rotate": 45},
    "shift": {"shift": 0.3},
    "zoom": {"zoom": 0.3},
}


def moved(settings: dict, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images that are their masks, and the masks, after the same draw."""
    settings = {**OFF, **settings}
    size = settings.pop("image_size", masks.shape[1])
    pipeline = create_augmentation(Augment(**settings), size, masks.shape[1], masks.shape[3])
    return augment_with_masks(pipeline, masks.copy(), masks, seed=1)


@pytest.mark.parametrize("classes", [1, 3, 6])
@pytest.mark.parametrize("settings", MOVES.values(), ids=MOVES)
def test_a_mask_goes_pixel_by_pixel_where_its_image_goes(settings, classes):
    masks = scenes(classes=classes)
    images, after = moved(settings, masks)
    assert np.array_equal(images, after)
    if "crop" not in settings:
        assert not np.array_equal(after, masks)


@pytest.mark.parametrize("settings", RESAMPLES.values(), ids=RESAMPLES)
def test_a_resampled_mask_lies_on_its_image_but_for_the_pixel_at_its_edge(settings):
    images, masks = moved(settings, scenes())
    assert set(np.unique(masks)) == {0, 255}  # no level between two was made
    off = (images > 127) != (masks > 127)
    edges = np.stack([cv2.morphologyEx(m, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0 for m in masks])
    assert (off[..., 0] & ~edges).mean() < 1e-4  # the tip of a corner may lie between the places looked at
    assert off.mean() < 0.05
    assert images.shape == masks.shape


@pytest.mark.parametrize("name", ["hue", "saturation", "gamma", "blur", "noise", "compression"])
def test_colours_leave_masks_alone(name):
    masks = scenes(classes=2)
    pipeline = create_augmentation(Augment(**OFF, **{name: EVERYTHING[name]}), 48)
    images = images_of(24, 48)
    after, kept = augment_with_masks(pipeline, images, masks, seed=1)
    assert np.array_equal(kept, masks)
    assert not np.array_equal(after, images)


@pytest.mark.parametrize("name", ["cutout", "erasing"])
def test_of_what_is_erased_the_mask_is_unsure_and_of_nothing_else(name):
    images = np.full((30, 32, 32, 3), 77, np.uint8)
    masks = scenes(30, 32, classes=2)
    pipeline = create_augmentation(Augment(**OFF, **{name: 0.7}), 32)
    after, told = augment_with_masks(pipeline, images, masks, seed=1)
    erased = (after != 77).any(3)
    assert 0 < erased.any((1, 2)).sum() < 30
    # one pixel of noise in 256 ** 3 may be as the image was
    assert np.array_equal(erased, (told == UNSURE).all(3))
    assert np.array_equal(told[~erased], masks[~erased])


# --- symmetries and crops -----------------------------------------------------------------------------------


def test_d4_is_each_of_the_eight_symmetries_of_the_square_as_often():
    n, image = 4000, np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    turns = [np.rot90(image, k) for k in range(4)]
    eight = [turned for turn in turns for turned in (turn, turn[:, ::-1])]
    found = made(np.repeat(image[None], n, axis=0), d4=1.0)
    counts = [int((found == one).all((1, 2, 3)).sum()) for one in eight]
    assert sum(counts) == n
    assert all(within(count / n, 1 / 8, n) for count in counts)


def test_d4_comes_as_often_as_asked_for():
    n, image = 4000, np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    found = made(np.repeat(image, n, axis=0), d4=0.4)
    assert within((found != image).any((1, 2, 3)).mean(), 0.4 * 7 / 8, n)


def windows(image: np.ndarray, size: int) -> dict[bytes, tuple[int, int]]:
    """Where each window of the image is found."""
    places = range(image.shape[0] - size + 1)
    return {image[y : y + size, x : x + size].tobytes(): (y, x) for y in places for x in places}


def test_a_random_crop_is_any_window_of_the_cached_image_as_often():
    n, image = 4000, images_of(1, 11)[0]
    found = made(np.repeat(image[None], n, axis=0), image_size=8, crop="random")
    where = windows(image, 8)
    counts = np.zeros((4, 4), int)
    for one in found:
        counts[where[one.tobytes()]] += 1  # a crop that is no window would be a KeyError
    assert all(within(count / n, 1 / 16, n) for count in counts.ravel())


@pytest.mark.parametrize(("cached", "size", "first"), [(12, 8, 2), (11, 8, 1), (9, 8, 0)])
def test_a_centre_crop_is_the_middle_of_every_image(cached, size, first):
    images = images_of(5, cached)
    found = made(images, image_size=size, crop="centre")
    assert np.array_equal(found, images[:, first : first + size, first : first + size])


def test_a_larger_cache_is_cropped_at_random_unless_told_otherwise():
    images = np.repeat(images_of(1, 20), 30, axis=0)
    where = windows(images[0], 12)
    found = made(images, image_size=12, crop_scale=(0.5, 0.9))
    assert len({where[one.tobytes()] for one in found}) > 10
    resized = made(images, image_size=12, crop_scale=(1.0, 1.0), crop="resized")
    # an area of 1 leaves the ratio to choose from, in which 1 is
    assert resized.shape == (30, 12, 12, 3)
    assert not any(one.tobytes() in where for one in resized)


# --- colours ------------------------------------------------------------------------------------------------


def test_hue_turns_the_colour_circle_both_ways_and_leaves_grey_alone():
    red = np.full((60, 4, 4, 3), (200, 60, 60), np.uint8)
    found = made(red, hue=0.1)
    hues = np.array([cv2.cvtColor(one, cv2.COLOR_RGB2HSV)[0, 0, 0] for one in found]).astype(int)
    turned = (hues + 90) % 180 - 90  # OpenCV's circle has 180 steps
    assert np.abs(turned).max() <= 19
    assert turned.min() < -9
    assert turned.max() > 9
    grey = np.full((20, 4, 4, 3), 120, np.uint8)
    assert np.array_equal(made(grey, hue=0.5), grey)


def test_saturation_blends_with_the_grey_image():
    images, grey = np.full((60, 4, 4, 3), (200, 100, 60), np.uint8), 0.299 * 200 + 0.587 * 100 + 0.114 * 60
    found = made(images, saturation=0.5)[:, 0, 0].astype(float)
    factors = (found[:, 0] - grey) / (200 - grey)
    assert 0.45 < factors.min() < 0.65
    assert 1.35 < factors.max() < 1.55
    expected = grey + factors[:, None] * (np.array([200, 100, 60]) - grey)
    np.testing.assert_allclose(found, expected, atol=2)


def test_gamma_is_a_power_of_brightness_as_far_down_as_up():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :256:4, None], (64, 1, 3))
    found = made(np.repeat(ramp[None], 200, axis=0), gamma=0.25).astype(float)
    middle = found[:, 0, 32, 0] / 255
    powers = np.log(middle) / np.log(128 / 255)
    assert 0.79 < powers.min() < 0.82
    assert 1.22 < powers.max() < 1.27
    expected = 255 * (ramp[None, 0, :, 0] / 255) ** powers[:, None]
    assert np.abs(found[:, 0, :, 0] - expected).max() <= 2.5  # the power itself is known to a level


def test_blur_comes_as_often_as_asked_for_and_is_gaussian_of_up_to_a_112th_of_the_side():
    n, size = 400, 112
    dot = np.zeros((1, size, size, 3), np.uint8)
    dot[:, 56, 56] = 255
    found = made(np.repeat(dot, n, axis=0), blur=0.5).astype(float)
    spread = found[:, 50:63, 50:63, 0]
    peak = spread[:, 6, 6]
    # a Gaussian of sigma 1 leaves 0.399 ** 2 of a dot in its middle; one of 0.1 leaves all
    assert peak.min() >= 255 * 0.399**2 - 2
    assert peak.min() < 60
    assert 0.5 * 0.55 < (peak < 250).mean() < 0.5  # sigmas below 0.3 or so leave the dot as it was
    np.testing.assert_allclose(spread, np.swapaxes(spread, 1, 2), atol=1)


def test_noise_is_gaussian_between_1_and_5_percent_of_white_and_comes_as_often_as_asked_for():
    n, images = 300, np.full((300, 32, 32, 3), 128, np.uint8)
    off = made(images, noise=0.5).astype(float) - 128
    noisy = off.std((1, 2, 3)) > 0
    assert within(noisy.mean(), 0.5, n)
    spread = off[noisy].std((1, 2, 3)) / 255
    error = 5 / math.sqrt(2 * 32 * 32 * 3)
    assert 0.01 * (1 - error) - 0.001 < spread.min() < 0.016
    assert 0.044 < spread.max() < 0.05 * (1 + error) + 0.001
    assert abs(off[noisy].mean()) < 5 * 255 * 0.05 / math.sqrt(noisy.sum() * 32 * 32 * 3) + 0.05


def by_pillow(image: np.ndarray, quality: int) -> np.ndarray:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(content)).astype(int)


def test_compression_is_jpeg_of_a_quality_from_40_to_90_as_pillow_writes_it():
    smooth = cv2.GaussianBlur(images_of(1, 32)[0], (0, 0), 3)
    smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)  # colours far apart
    found = made(np.repeat(smooth[None], 60, axis=0), compression=0.5)
    pillows = np.stack([by_pillow(smooth, quality) for quality in range(40, 91)])
    written = [one for one in found if not np.array_equal(one, smooth)]
    apart = np.stack([np.abs(pillows - one).mean((1, 2, 3)) for one in written])  # (n, qualities)
    assert apart.min(1).max() < 0.5  # the same file, up to how each decoder rounds
    qualities = 40 + apart.argmin(1)
    assert within(len(written) / 60, 0.5, 60)
    assert qualities.min() < 55
    assert qualities.max() > 75
    swapped = A.ImageCompression(quality_range=(50, 50), p=1.0)(image=smooth)["image"]
    assert np.abs(pillows - swapped).mean((1, 2, 3)).min() > 0.7  # why it is not albumentations' own


def test_compression_of_other_channels_is_that_of_each_alone():
    images = images_of(3, 16, channels=5)
    found = made(images, compression=1.0)
    alone = np.concatenate([made(images[..., c : c + 1], compression=1.0) for c in range(5)], axis=3)
    assert np.array_equal(found, alone)  # the same seed, so the same qualities


# --- erasing ------------------------------------------------------------------------------------------------


def test_random_erasing_has_the_papers_areas_and_ratios_and_fills_with_noise():
    n, size = 500, 64
    images = np.full((n, size, size, 3), 100, np.uint8)
    found = made(images, erasing=0.6)
    erased = (found != 100).any(3)
    hit = erased.any((1, 2))
    assert within(hit.mean(), 0.6, n)
    areas, ratios, values = [], [], []
    for mask, image in zip(erased[hit], found[hit], strict=True):
        ys, xs = np.nonzero(mask)
        height, width = np.ptp(ys) + 1, np.ptp(xs) + 1
        assert mask.sum() >= 0.999 * height * width - 1  # one rectangle; noise may be 100 by chance
        areas.append(height * width / size**2)
        ratios.append(height / width)
        values.append(image[mask].reshape(-1))
    assert 0.015 < min(areas) < 0.05
    assert 0.28 < max(areas) < 0.35
    assert 0.25 < min(ratios) < 0.6
    assert 1.7 < max(ratios) < 3.8
    noise = np.concatenate(values).astype(float)
    assert abs(noise.mean() - 127.5) < 5
    assert abs(noise.std() - 73.9) < 5
