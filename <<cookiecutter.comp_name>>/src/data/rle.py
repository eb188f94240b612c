"""Run-length encoding (RLE) of masks in Kaggle's format: "start length start length ...", pixels counted from
1, column by column."""

from __future__ import annotations

import numpy as np

from src.config import UserError


def decode_runs(text: str, height: int, width: int) -> np.ndarray:
    """Decode RLE: (H, W) bool from runs in any order, which may touch or overlap; "" and "-1" are an empty
    mask.

    Raises `UserError` for text that does not consist of runs inside the image.
    """
    words = text.split()
    if words in ([], ["-1"]):
        return np.zeros((height, width), dtype=bool)
    numbers = _whole_numbers(words)
    if len(numbers) % 2:
        raise UserError(f"its runs are {len(numbers)} numbers; they should be pairs, a start and a length")
    starts, lengths = numbers[::2], numbers[1::2]
    _check(starts, lengths, height, width)
    flat = _paint(starts.astype(np.int64) - 1, lengths.astype(np.int64), height * width)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def encode_runs(mask: np.ndarray) -> str:
    """Encode a mask (H, W) bool as RLE, with ascending, separate runs; "" for an empty mask."""
    flat = np.asarray(mask, dtype=bool).T.ravel()  # column-major
    edges = np.flatnonzero(np.diff(np.r_[False, flat, False]))
    starts, ends = edges[::2], edges[1::2]
    return " ".join(map(str, np.stack([starts + 1, ends - starts], axis=1).ravel().tolist()))


def _whole_numbers(words: list[str]) -> np.ndarray:
    """The tokens as float64, which can hold numbers that are too large for any image. Raises `UserError` for
    a token that is not an integer."""
    for place, word in enumerate(words):
        if not word.removeprefix("-").isdecimal():
            raise UserError(f"its run {place // 2 + 1} has {word[:20]!r}, which is no whole number")
    return np.array(words, dtype=np.float64)


def _check(starts: np.ndarray, lengths: np.ndarray, height: int, width: int) -> None:
    ends, pixels = starts + lengths - 1, height * width
    wrong = (starts < 1) | (lengths < 1) | (ends > pixels)
    if not wrong.any():
        return
    run = int(wrong.argmax())
    start, length, end = starts[run], lengths[run], ends[run]
    if start < 1:
        why = f"starts at {start:.0f}; the first pixel is 1"
    elif length < 1:
        why = f"has the length {length:.0f}; a run is 1 or more"
    else:
        why = f"ends at pixel {end:.0f}; the image has {pixels}, {height} high and {width} wide"
    raise UserError(f"its run {run + 1} {why}")


def _paint(starts: np.ndarray, lengths: np.ndarray, pixels: int) -> np.ndarray:
    """(pixels,) bool: true from each start (counted from 0) for the length of its run."""
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate((starts + lengths)[order])
    apart = np.flatnonzero(starts[1:] > ends[:-1]) + 1  # where no earlier run reaches
    edges = np.stack([starts[np.r_[0, apart]], ends[np.r_[apart - 1, -1]]], axis=1).ravel()
    stretches = np.diff(np.r_[0, edges, pixels])  # lengths of alternating false and true segments
    return np.repeat(np.arange(len(stretches)) % 2 == 1, stretches)
