"""Run-length masks: column by column from 1, read and written as a plain loop does, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from src.config import UserError
from src.data.rle import decode_runs, encode_runs

SIZES = [(1, 1), (1, 12), (12, 1), (7, 5), (30, 41)]


def painted(text: str, height: int, width: int) -> np.ndarray:
    """Pixel by pixel, as Kaggle's evaluation pages describe it: down the first column, then the next."""
    mask = np.zeros((height, width), dtype=bool)
    numbers = [int(word) for word in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for pixel in range(start - 1, start - 1 + length):
            mask[pixel % height, pixel // height] = True
    return mask


def written(mask: np.ndarray) -> str:
    """Pixel by pixel, the other way."""
    height, width = mask.shape
    words, before = [], False
    for pixel in range(height * width):
        now = bool(mask[pixel % height, pixel // height])
        if now and not before:
            words += [pixel + 1, 0]
        if now:
            words[-1] += 1
        before = now
    return " ".join(map(str, words))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("size", SIZES)
def test_masks_are_written_and_read_as_a_plain_loop_does(size, share):
    mask = np.random.default_rng(0).random(size) < share
    text = encode_runs(mask)
    assert text == written(mask)
    again = decode_runs(text, *size)
    assert (again.dtype, again.shape) == (np.dtype(bool), size)
    assert again.tolist() == mask.tolist() == painted(text, *size).tolist()


def test_the_first_column_comes_first():
    assert decode_runs("2 2", 3, 2).tolist() == [[False, False], [True, False], [True, False]]
    assert encode_runs(np.array([[0, 1], [0, 1], [1, 0]], dtype=bool)) == "3 3"


@pytest.mark.parametrize("seed", range(8))
def test_runs_of_several_objects_may_stand_in_any_order_touch_and_overlap(seed):
    rng = np.random.default_rng(seed)
    starts = rng.integers(1, 90, 12)
    lengths = np.minimum(rng.integers(1, 15, 12), 91 - starts)
    text = " ".join(f"{start} {length}" for start, length in zip(starts, lengths, strict=True))
    mask = decode_runs(text, 9, 10)
    assert mask.tolist() == painted(text, 9, 10).tolist()
    assert encode_runs(mask) == written(mask)


def test_touching_runs_are_written_as_one():
    assert encode_runs(decode_runs("4 2 1 3", 5, 4)) == "1 5"


@pytest.mark.parametrize("text", ["", "  ", "-1", " -1 "])
def test_nothing_and_minus_one_are_an_empty_mask(text):
    mask = decode_runs(text, 3, 4)
    assert (mask.shape, mask.any()) == ((3, 4), False)


def test_a_mask_of_numbers_is_written_as_one_of_bits():
    assert encode_runs(np.array([[0, 255], [7, 0]], dtype=np.uint8)) == "2 2"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 2 3", "its runs are 3 numbers; they should be pairs, a start and a length"),
        ("1 2 x 3", "its run 2 has 'x', which is no whole number"),
        ("1 2.5", "its run 1 has '2.5', which is no whole number"),
        ("1 2 nan 1", "its run 2 has 'nan', which is no whole number"),
        ("0 2", "its run 1 starts at 0; the first pixel is 1"),
        ("1 2 -3 2", "its run 2 starts at -3; the first pixel is 1"),
        ("-1 2", "its run 1 starts at -1; the first pixel is 1"),
        ("1 2 3 0", "its run 2 has the length 0; a run is 1 or more"),
        ("1 2 3 -1", "its run 2 has the length -1; a run is 1 or more"),
        ("1 2 10 4", "its run 2 ends at pixel 13; the image has 12, 3 high and 4 wide"),
        ("13 1", "its run 1 ends at pixel 13; the image has 12, 3 high and 4 wide"),
        (f"1 {10**30}", "the image has 12, 3 high and 4 wide"),
        (f"{2**62} {2**62}", "the image has 12, 3 high and 4 wide"),
    ],
)
def test_a_text_that_cannot_be_right_is_refused_with_the_run_and_the_reason(text, says):
    with pytest.raises(UserError) as error:
        decode_runs(text, 3, 4)
    assert says in str(error.value)


def test_a_run_may_end_at_the_last_pixel():
    assert decode_runs("12 1", 3, 4).tolist() == painted("12 1", 3, 4).tolist()
    assert decode_runs("1 12", 3, 4).all()
