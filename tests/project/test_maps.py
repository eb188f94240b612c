"""Packed maps come back as they were, in the size asked for; their means are those of the arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.maps import Maps, decode_map, encode_map, stacked_maps

SHAPES = [(7, 5), (1, 9), (9, 1), (1, 1), (64, 48)]


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def images(classes: int = 2, seed: int = 0, sizes=SHAPES) -> list[np.ndarray]:
    return [noise((classes, *size), seed + number) for number, size in enumerate(sizes)]


def linear(stack: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(C, H, W) float of another size, as torch resizes."""
    values = torch.from_numpy(stack.astype(np.float64))[None]
    return torch.nn.functional.interpolate(values, size, mode="bilinear", align_corners=False)[0].numpy()


# --- packing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_unpacked_is_what_was_packed(shape):
    for level in (noise(shape), (noise(shape) > 99) * np.uint8(255), np.zeros(shape, np.uint8)):
        again = decode_map(encode_map(level))
        assert again.dtype == np.uint8
        assert again.tolist() == level.tolist()


def test_a_turned_or_cut_out_array_is_packed_as_it_looks():
    level = noise((20, 30))
    for view in (level.T, level[3:9, ::2], level[::-1]):
        assert decode_map(encode_map(view)).tolist() == view.tolist()


def test_a_mask_takes_a_small_part_of_its_pixels():
    y, x = np.mgrid[:512, :512]
    disc = ((y - 256) ** 2 + (x - 200) ** 2 < 150**2) * np.uint8(255)
    assert len(encode_map(disc)) < disc.size / 50


@pytest.mark.parametrize("cell", [b"", b"no picture"])
def test_bytes_that_are_no_picture_are_refused(cell):
    with pytest.raises(ValueError, match=f"a packed map of {len(cell)} bytes cannot be decoded"):
        decode_map(cell)


# --- a sequence of images -----------------------------------------------------------------------------------


def test_maps_are_a_sequence_of_stacks_in_their_own_sizes():
    arrays = images()
    maps = Maps.of(iter(arrays))
    assert len(maps) == len(arrays)
    assert [stack.tolist() for stack in maps] == [array.tolist() for array in arrays]
    assert maps[3].tolist() == arrays[3].tolist()
    assert all(isinstance(cell, bytes) for cells in maps.cells for cell in cells)


@pytest.mark.parametrize(
    "rows", [[3, 0], np.array([1]), np.array([True, False, False, True, True]), slice(2)]
)
def test_rows_are_taken_as_from_an_array_and_their_sizes_with_them(rows):
    arrays, sizes = images(), [(number + 1, 9) for number in range(len(SHAPES))]
    places = np.arange(len(arrays))[rows]
    taken = Maps.of(arrays).take(rows)
    assert [stack.tolist() for stack in taken] == [arrays[place].tolist() for place in places]
    assert [stack.shape[1:] for stack in Maps.of(arrays).resized(sizes).take(rows)] == [
        sizes[place] for place in places
    ]


@pytest.mark.parametrize("size", [(14, 11), (64, 64), (7, 20)])
def test_an_image_looked_at_in_another_size_is_resized_linearly(size):
    array = images(classes=3, sizes=[(7, 5)])[0]
    maps = Maps.of([array]).resized([size])
    assert maps[0].dtype == np.uint8
    assert np.abs(maps[0] - linear(array, size)).max() <= 1
    assert maps.resized(None)[0].tolist() == array.tolist()


def test_an_image_of_the_asked_size_is_not_touched():
    array = noise((2, 7, 5))
    assert Maps.of([array]).resized([(7, 5)])[0].tolist() == array.tolist()


def test_a_size_an_image_is_needed():
    with pytest.raises(ValueError, match="2 images, but sizes of 1"):
        Maps.of(images(sizes=SHAPES[:2])).resized([(3, 3)])


def test_joined_maps_follow_one_another_with_their_sizes():
    first, second = images(seed=0), images(seed=9)[:2]
    whole = Maps.joined([Maps.of(first), Maps.of(second)])
    assert [stack.tolist() for stack in whole] == [array.tolist() for array in first + second]
    sized = Maps.joined([Maps.of(part).resized([(2, 2)] * len(part)) for part in (first, second)])
    assert [stack.shape for stack in sized] == [(2, 2, 2)] * 7


# --- means --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 2, 3, 6])
def test_the_mean_is_the_nearest_level_and_a_half_goes_up(members):
    arrays = [images(seed=10 * m) for m in range(members)]
    mean = Maps.mean([Maps.of(one) for one in arrays])
    for number, stack in enumerate(mean):
        total = sum(one[number].astype(int) for one in arrays)
        assert stack.tolist() == ((2 * total + members) // (2 * members)).tolist()


def test_weights_are_a_member_and_class():
    arrays = [images(seed=10 * m) for m in range(3)]
    weights = np.array([[0.5, 0.0], [0.2, 1.0], [0.3, 0.0]])
    for number, stack in enumerate(Maps.weighted([Maps.of(one) for one in arrays], weights)):
        first = 0.5 * arrays[0][number][0] + 0.2 * arrays[1][number][0] + 0.3 * arrays[2][number][0]
        assert np.abs(stack[0] - first).max() <= 0.5 + 1e-9
        assert stack[1].tolist() == arrays[1][number][1].tolist()


def test_a_mean_is_taken_at_the_stored_size_and_looked_at_in_the_first_ones():
    one, two = noise((1, 8, 8), 1), noise((1, 8, 8), 2)
    sizes = [(20, 30)]
    mean = Maps.mean([Maps.of([one]).resized(sizes), Maps.of([two]).resized(sizes)])
    assert mean.resized(None)[0].shape == (1, 8, 8)
    assert mean[0].shape == (1, 20, 30)
    assert np.abs(mean[0] - (linear(one, sizes[0]) + linear(two, sizes[0])) / 2).max() <= 2


def test_of_members_in_several_sizes_the_largest_loses_nothing():
    small, large = noise((1, 4, 4), 1), noise((1, 16, 16), 2)
    (both,) = stacked_maps([Maps.of([small]), Maps.of([large])])
    assert both.shape == (2, 1, 16, 16)
    assert both[1].tolist() == large.tolist()
    assert np.abs(both[0] - linear(small, (16, 16))).max() <= 1


def test_members_of_other_images_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        list(stacked_maps([Maps.of(images()), Maps.of(images()[:2])]))
