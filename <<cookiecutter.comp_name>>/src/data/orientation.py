"""EXIF orientation of images and of their masks.

Images are cached upright. A mask drawn in a tool that applies EXIF is upright as well; a mask drawn on the
stored pixels has to be rotated with its image. Mask files seldom record which, but for a quarter turn the
sizes tell.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from src.config import Data, UserError
from src.data.decode import pillow, readable
from src.reading import read_parquet

TAG = 0x0112


def orientation(path: Path) -> int:
    """EXIF orientation 1 to 8: 1 is upright (also for a file without EXIF); from 5 on height and width are
    swapped."""
    if path.suffix.lower() == ".npy":
        return 1
    with readable(), pillow().open(io.BytesIO(path.read_bytes())) as image:
        return image.getexif().get(TAG, 1)


def turned(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation to stored pixels (H, W): upright pixels (H, W) or (W, H)."""
    if orientation >= 5:
        stored = stored.T
    mirrored = orientation in (2, 3, 6, 7)
    upended = orientation in (3, 4, 7, 8)
    return stored[:: -1 if upended else 1, :: -1 if mirrored else 1]


def upright_mask(
    values: np.ndarray, own: int, of_image: int, size: tuple[int, int], lies: str | None
) -> np.ndarray:
    """The values of a mask (H, W), rotated to match its upright image of `size` (H, W).

    `own` and `of_image` are the EXIF orientations of the mask and the image, `lies` is `data.mask_exif`.
    Raises `UserError` if the mask fits both ways.
    """
    other = turned(values, own if own != 1 else of_image)
    if of_image == 1 or lies == "upright":
        return values if values.shape == size or other.shape != size else other
    if lies == "stored" or own == of_image or values.shape != size:
        return other if other.shape == size else values
    if other.shape != size or (values == other).all():
        return values
    raise UserError(
        f"its image is turned by EXIF (orientation {of_image}), and the mask fits upright and as the pixels "
        f"are stored; set data.mask_exif to `upright` or `stored`"
    )


def orientations(folder: Path, tables: Any, data: Data, title: str) -> list[int]:
    """(N,) EXIF orientation of each training image. Prints how run lengths of rotated images are interpreted.
    `folder` is the image cache, `tables` the `Tables` of data/tables.py."""
    index = read_parquet(folder / "index.parquet", ["set", "id", "mode"])
    there = index["mode"].str.contains("turned by EXIF")
    marked = there[index["set"] == "train"]
    if there.any() and data.rle is not None:
        print(
            f"{title}: {there.sum():,} images are turned by EXIF, such as {index['id'][there].iloc[0]}: "
            f"run lengths of train are taken to be of the pictures "
            f"{'as stored' if data.mask_exif == 'stored' else 'upright (else set data.mask_exif=stored)'}, "
            f"those of the submission are of the upright ones"
        )
    files = zip(tables.images["train"], marked, strict=True)
    return [orientation(path) if mark else 1 for path, mark in files]
