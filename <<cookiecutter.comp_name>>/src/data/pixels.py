"""Storage formats of the image cache; each is indexed like an array (N, S, S, C) uint8.

`data.storage` selects the format: one memory-mapped array (`images.npy`); shards, which are tar files of
JPEGs as in webdataset, with the table `images.shards.parquet` of offsets; or the competition's original
files, decoded on each access (`images.files.parquet`).
"""

from __future__ import annotations

import io
import mmap
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pandas as pd

from src.config import Data, UserError
from src.data.decode import decode, named
from src.reading import damaged, read_array, read_parquet

OPEN = 64  # memory-mapped shards at a time; the least recently used is closed


class LazyImages:
    """Base class of images that are decoded on access; subclasses implement `one`."""

    shape: tuple[int, int, int, int]

    def one(self, position: int) -> np.ndarray:
        """One image (S, S, C) uint8."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, positions: Any) -> np.ndarray:
        """The image at an integer position, or the images at positions (B,)."""
        positions = np.asarray(positions)
        if positions.ndim == 0:
            return self.one(int(positions))
        images = np.empty((len(positions), *self.shape[1:]), np.uint8)
        for i, position in enumerate(positions.tolist()):
            images[i] = self.one(position)
        return images


def views(pixels: np.ndarray | LazyImages, positions: np.ndarray) -> list[np.ndarray]:
    """Each of the images (S, S, C) uint8. A memory-mapped array gives views, so that only the pixels that are
    used are read."""
    if isinstance(pixels, LazyImages):
        return [pixels.one(position) for position in positions.tolist()]
    pixels = np.asarray(pixels)  # slicing an np.memmap is far slower
    return [pixels[position] for position in positions.tolist()]


class JoinedStores(LazyImages):
    """Two stores (N1, S, S, C) and (N2, S, S, C) concatenated to one (N1 + N2, S, S, C)."""

    def __init__(self, first: np.ndarray | LazyImages, second: np.ndarray | LazyImages):
        self.first, self.second = (np.asarray(p) if isinstance(p, np.memmap) else p for p in (first, second))
        self.shape = (len(first) + len(second), *first.shape[1:])

    def one(self, position: int) -> np.ndarray:
        """One image (S, S, C) uint8; of an array, a view."""
        late = position >= len(self.first)
        return self.second[position - len(self.first)] if late else self.first[position]


class ImageFiles(LazyImages):
    """The competition's original files, decoded on each access; JPEGs at the smallest sufficient scale."""

    def __init__(self, paths: list[Path], shape: tuple[int, int, int, int], data: Data):
        self.paths, self.shape, self.data = paths, shape, data

    def one(self, position: int) -> np.ndarray:
        """One image (S, S, C) uint8. Raises `UserError` for a file that is missing or changed since stage
        01."""
        path = self.paths[position]
        with named(path):
            pixels = decode(path, self.data, hashes=False).pixels
        if pixels.shape != self.shape[1:]:
            raise UserError(f"{path}: it has another number of channels than when stage 01 saw it")
        return pixels


class ShardImages(LazyImages):
    """Encoded images in tar files. A shard is memory-mapped on first use and read ahead as a whole, so that
    rows in shard order are read sequentially."""

    maps: OrderedDict[int, mmap.mmap]
    NAME: ClassVar[str] = "{:06d}.tar"

    def __init__(self, folder: Path, table: pd.DataFrame, shape: tuple[int, int, int, int]):
        self.folder, self.shape, self.maps = folder, shape, OrderedDict()
        self.places = table[["shard", "offset", "size"]].to_numpy()  # (N, 3)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the memory maps: a spawned worker opens its own."""
        return {**self.__dict__, "maps": OrderedDict()}

    def one(self, position: int) -> np.ndarray:
        """One image (S, S, C) uint8. Raises `UserError` if its shard is missing or damaged."""
        shard, offset, size = self.places[position].tolist()
        content = self._mapped(shard)[offset : offset + size]
        try:
            return decoded(content, self.shape[3])
        except (cv2.error, ValueError):
            path = self.folder / self.NAME.format(shard)
            raise UserError(f"{path}: it is damaged; run `make folds ARGS=--force`") from None

    def _mapped(self, shard: int) -> mmap.mmap:
        if shard in self.maps:
            self.maps.move_to_end(shard)
            return self.maps[shard]
        path = self.folder / self.NAME.format(shard)
        try:
            with open(path, "rb") as file:
                whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            raise UserError(f"{path}: it cannot be read; run `make folds ARGS=--force`") from None
        if hasattr(mmap, "MADV_WILLNEED"):  # not on Windows
            whole.madvise(mmap.MADV_WILLNEED)
        self.maps[shard] = whole
        if len(self.maps) > OPEN:
            self.maps.popitem(last=False)[1].close()
        return whole


_JPEG = [  # a photograph is about a tenth of its raw size
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,  # no chroma subsampling: the images are small already
]


def encoded(pixels: np.ndarray) -> bytes:
    """Encode (S, S, C) uint8 as JPEG if grey or RGB, otherwise as a .npy file (lossless)."""
    if pixels.shape[2] not in (1, 3):
        file = io.BytesIO()
        np.save(file, pixels, allow_pickle=False)
        return file.getvalue()
    image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.shape[2] == 3 else pixels
    return cv2.imencode(".jpg", image, _JPEG)[1].tobytes()


def ending_of(channels: int) -> str:
    """The file name extension of an encoded image with this many channels."""
    return "jpg" if channels in (1, 3) else "npy"


def decoded(content: bytes, channels: int) -> np.ndarray:
    """The inverse of `encoded`: (S, S, C) uint8. Raises ValueError or cv2.error for damaged content."""
    if channels not in (1, 3):
        return np.load(io.BytesIO(content), allow_pickle=False)
    colour = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), colour)
    if pixels is None:
        raise ValueError("no image")
    return pixels.reshape(*pixels.shape[:2], channels)


def open_pixels(path: Path, data: Data, raw: Path) -> np.ndarray | LazyImages:
    """Open the image store at `path` without reading the images; `raw` is the folder with Kaggle's files."""
    if path.suffix == ".npy":
        return read_array(path, 4)
    shards = path.name.endswith(".shards.parquet")
    table = read_parquet(path, ["shard", "offset", "size", "channels"] if shards else ["file", "channels"])
    if not len(table):
        raise damaged(path, "has no rows")
    side, channels = data.cached_size, int(table["channels"].iloc[0])
    shape = (len(table), side, side, channels)
    if shards:
        return ShardImages(path.with_suffix(""), table, shape)
    return ImageFiles([raw / name for name in table["file"]], shape, data)
