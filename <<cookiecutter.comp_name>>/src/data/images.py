"""The image cache: every image decoded once, resized to the training resolution, and shared by all runs.

The store is (N, S, S, C) uint8, RGB for pictures, in one of the formats of pixels.py. `index.parquet` has a
row per table row (set, id, position in the store, file, size, mode, content hash, perceptual hash,
thumbnail). `statistics.json` has the channel mean and std of the training images.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import Step, write_json, write_parquet
from src.config import Config, Data, UserError
from src.data.decode import READERS, Decoded, decode, named
from src.data.packing import pack_images, refusal
from src.data.pixels import LazyImages, open_pixels, views
from src.data.tables import Tables
from src.reading import read_json, read_parquet
from src.steps import images_step

COUNTED = 10_000  # at most this many training images if reading them means decoding them again


def build_cache(step: Step, tables: Tables, config: Config) -> None:
    """Write the three files of the images step. Raises `UserError` naming the first unreadable image."""
    data, raw = config.data, config.root / config.data.raw
    files = list(dict.fromkeys([*tables.images["train"], *tables.images["test"]]))
    position = {file: i for i, file in enumerate(files)}
    shape = (len(files), data.cached_size, data.cached_size, channels_of(files[0], data))
    path = step.folder / step.outputs[0]
    known = pack_images(path, files, shape, data, step.title, partial(_refuse, tables=tables), raw)
    index = _index(tables, data.id, position, known)
    write_parquet(step.folder / "index.parquet", index)
    contents = hashlib.sha256(index[["set", "id", "content"]].to_csv(index=False).encode()).hexdigest()[:16]
    statistics = _statistics(open_pixels(path, data, raw), index)
    write_json(step.folder / "statistics.json", {**statistics, "contents": contents})
    step.done()


def channels_of(file: Path, data: Data) -> int:
    """The number of channels in the cache: 3 for pictures; for arrays, or with data.preprocess, that of the
    first file."""
    if file.suffix.lower() not in READERS and data.preprocess is None:
        return 3
    with named(file):
        return decode(file, data).pixels.shape[2]


def _refuse(broken: list[tuple[Path, str]], tables: Tables) -> None:
    path, why = refusal(broken, "its row out")
    role = "train" if path in set(tables.images["train"]) else "test"
    row = tables.images[role].index(path)
    raise UserError(f"{path} (row {tables.line(role, row)} of the {role} table): {why}")


def _index(tables: Tables, id_column: str, position: dict[Path, int], known: list[Decoded]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for role, table in (("train", tables.train), ("test", tables.test)):
        for name, file in zip(table[id_column], tables.images[role], strict=True):
            d = known[position[file]]
            row = {"set": role, "id": name, "position": position[file], "file": file.name, "height": d.height}
            row |= {
                "width": d.width,
                "mode": d.mode,
                "content": d.content,
                "phash": d.phash,
                "thumbnail": d.thumbnail,
            }
            rows.append(row)
    return pd.DataFrame(rows).astype({"phash": "uint64", "position": "int64"})


def _statistics(packed: np.ndarray | LazyImages, index: pd.DataFrame) -> dict[str, Any]:
    """Channel mean and std of the training images, in units of white (0 to 1), exact, from histograms. If the
    store is not an array they come from a random sample of at most `COUNTED` images."""
    channels = packed.shape[3]
    counts = np.zeros((channels, 256), dtype=np.int64)
    positions = index.loc[index["set"] == "train", "position"].to_numpy()
    if isinstance(packed, LazyImages) and len(positions) > COUNTED:
        positions = np.sort(np.random.default_rng(0).choice(positions, COUNTED, replace=False))
    for start in range(0, len(positions), 256):
        block = packed[positions[start : start + 256]]  # (n, S, S, C)
        counts += np.stack([np.bincount(block[..., c].ravel(), minlength=256) for c in range(channels)])
    values = np.arange(256) / 255.0
    mean = counts @ values / counts.sum(1)
    std = np.sqrt(counts @ values**2 / counts.sum(1) - mean**2)
    modes = Counter(index["mode"])
    return {
        "mean": mean.tolist(),
        "std": np.maximum(std, 1e-3).tolist(),
        "modes": dict(sorted(modes.items())),
    }


@dataclass(frozen=True)
class ImageStore:
    """The image cache, opened without reading it, and the position of each table row in it."""

    pixels: np.ndarray | LazyImages  # (N, S, S, C) uint8
    train: np.ndarray  # position of each row of train.csv
    test: np.ndarray
    train_ids: list[str]
    test_ids: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_sizes: list[tuple[int, int]] = field(default_factory=list)  # height and width of each file
    test_sizes: list[tuple[int, int]] = field(default_factory=list)
    extra: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # positions of external images
    extra_ids: list[str] = field(default_factory=list)
    extra_sizes: list[tuple[int, int]] = field(default_factory=list)
    seen: int | None = None  # side of the centre crop used for evaluation; None: the whole image

    def views(self, positions: np.ndarray) -> list[np.ndarray]:
        """Each of the images (S, S, C) uint8: a view into the store, or decoded."""
        return views(self.pixels, positions)

    def look(self, positions: np.ndarray) -> np.ndarray:
        """(B, S, S, C) uint8 as used for evaluation: the whole images, or their centre crop."""
        side = self.pixels.shape[1]
        first = 0 if self.seen is None else (side - self.seen) // 2
        centre = slice(first, side if self.seen is None else first + self.seen)
        return self.pixels[positions][:, centre, centre]


def open_images(config: Config) -> ImageStore:
    """Open the image cache written by the images step."""
    step = images_step(config)
    columns = ["set", "id", "position", "height", "width"]
    index = read_parquet(step.folder / "index.parquet", columns)
    statistics = read_json(step.folder / "statistics.json", mean=list, std=list)
    train, test = (index[index["set"] == role] for role in ("train", "test"))
    return ImageStore(
        pixels=open_pixels(step.folder / step.outputs[0], config.data, config.root / config.data.raw),
        train=train["position"].to_numpy(),
        test=test["position"].to_numpy(),
        train_ids=train["id"].tolist(),
        test_ids=test["id"].tolist(),
        mean=tuple(statistics["mean"]),
        std=tuple(statistics["std"]),
        train_sizes=_sizes(train),
        test_sizes=_sizes(test),
    )


def _sizes(index: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(index["height"].tolist(), index["width"].tolist(), strict=True))
