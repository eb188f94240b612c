"""Where the images of a store lie, whatever keeps them: all are read like an array (N, S, S, C) uint8.

`data.storage` says which: one array (`images.npy`, as numpy maps it), shards (tar files of JPEGs, such as
webdataset reads, and the table `images.shards.parquet` of where each image lies), or the competition's own
files, decoded each time (`images.files.parquet`).
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

OPEN = 64  # shards at a time; what was mapped longest ago is closed


class LazyImages:
    """Images that are made when they are asked for; a kind of them says how one is made, in `one`."""

    shape: tuple[int, int, int, int]

    def one(self, position: int) -> np.ndarray:
        """(S, S, C) uint8."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, positions: Any) -> np.ndarray:
        """The images at whole numbers, one or an array (B,)."""
        positions = np.asarray(positions)
        if positions.ndim == 0:
            return self.one(int(positions))
        images = np.empty((len(positions), *self.shape[1:]), np.uint8)
        for i, position in enumerate(positions.tolist()):
            images[i] = self.one(position)
        return images


def views(pixels: np.ndarray | LazyImages, positions: np.ndarray) -> list[np.ndarray]:
    """Each of the images there, (S, S, C) uint8; of a mapped array where it lies, so that only what is looked
    at is read."""
    if isinstance(pixels, LazyImages):
        return [pixels.one(position) for position in positions.tolist()]
    pixels = np.asarray(pixels)  # np.memmap itself is far slower to cut
    return [pixels[position] for position in positions.tolist()]


class JoinedStores(LazyImages):
    """Two of them, (N1, S, S, C) and (N2, S, S, C), looked at as one (N1 + N2, S, S, C)."""

    def __init__(self, first: np.ndarray | LazyImages, second: np.ndarray | LazyImages):
        self.first, self.second = (np.asarray(p) if isinstance(p, np.memmap) else p for p in (first, second))
        self.shape = (len(first) + len(second), *first.shape[1:])

    def one(self, position: int) -> np.ndarray:
        """(S, S, C) uint8, of an array where it lies."""
        late = position >= len(self.first)
        return self.second[position - len(self.first)] if late else self.first[position]


class ImageFiles(LazyImages):
    """The competition's own files, decoded each time, JPEGs at the smallest scale that is large enough."""

    def __init__(self, paths: list[Path], shape: tuple[int, int, int, int], data: Data):
        self.paths, self.shape, self.data = paths, shape, data

    def one(self, position: int) -> np.ndarray:
        """(S, S, C) uint8; raises `UserError` for a file that went or changed since stage 01 saw it."""
        path = self.paths[position]
        with named(path):
            pixels = decode(path, self.data, hashes=False).pixels
        if pixels.shape != self.shape[1:]:
            raise UserError(f"{path}: it has another number of channels than when stage 01 saw it")
        return pixels


class ShardImages(LazyImages):
    """Encoded images in tar files, mapped when one of their images is wanted and read ahead as a whole, so
    that rows taken shard by shard are one stream from the disk."""

    maps: OrderedDict[int, mmap.mmap]
    NAME: ClassVar[str] = "{:06d}.tar"

    def __init__(self, folder: Path, table: pd.DataFrame, shape: tuple[int, int, int, int]):
        self.folder, self.shape, self.maps = folder, shape, OrderedDict()
        self.places = table[["shard", "offset", "size"]].to_numpy()  # (N, 3)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is mapped: a worker that is spawned maps its own."""
        return {**self.__dict__, "maps": OrderedDict()}

    def one(self, position: int) -> np.ndarray:
        """(S, S, C) uint8; raises `UserError` where its shard is gone or damaged."""
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


_JPEG = [  # of a photograph about a tenth of its pixels' bytes
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,  # colours as sharp as the light: the images are small already
]


def encoded(pixels: np.ndarray) -> bytes:
    """(S, S, C) uint8 as a JPEG; what is neither grey nor RGB as a .npy file, without loss."""
    if pixels.shape[2] not in (1, 3):
        file = io.BytesIO()
        np.save(file, pixels, allow_pickle=False)
        return file.getvalue()
    image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.shape[2] == 3 else pixels
    return cv2.imencode(".jpg", image, _JPEG)[1].tobytes()


def ending_of(channels: int) -> str:
    """The ending of a member that holds such an image."""
    return "jpg" if channels in (1, 3) else "npy"


def decoded(content: bytes, channels: int) -> np.ndarray:
    """(S, S, C) uint8 of what `encoded` made; raises ValueError or cv2.error for what it did not."""
    if channels not in (1, 3):
        return np.load(io.BytesIO(content), allow_pickle=False)
    colour = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), colour)
    if pixels is None:
        raise ValueError("no image")
    return pixels.reshape(*pixels.shape[:2], channels)


def open_pixels(path: Path, data: Data, raw: Path) -> np.ndarray | LazyImages:
    """The images that `path` tells of, opened without reading them; `raw` is the folder of Kaggle's files."""
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
