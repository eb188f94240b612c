"""Decode once: every image resized to the training resolution into one packed uint8 array, shared by every
run.

`images.npy` is (N, S, S, C), RGB for pictures; `index.parquet` has a row a table row (set, id, position in
the array, file, size, mode, content hash, perceptual hash, thumbnail); `statistics.json` has the training
images' channel mean and std.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from src.artifacts import Step, atomic, write_json, write_parquet, writing
from src.config import Data, UserError
from src.data.decode import READERS, Decoded, decode
from src.data.tables import Tables
from src.machine import cpu_count
from src.progress import Progress


def build_cache(step: Step, tables: Tables, data: Data) -> None:
    """Make the three files of the images step; raises `UserError` naming the first unreadable image."""
    files = list(dict.fromkeys([*tables.images["train"], *tables.images["test"]]))
    position = {file: i for i, file in enumerate(files)}
    shape = (len(files), data.cached_size, data.cached_size, channels_of(files[0], data))
    size = int(np.prod(shape))
    with writing(step.folder):
        step.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(step.folder).free
    print(
        f"{step.title}: {len(files):,} files, {size / 2**20:,.0f} MiB on disk ({free / 2**20:,.0f} MiB free)"
    )
    if size > free:
        raise UserError(
            f"{step.folder}: the image cache needs {size / 2**20:,.0f} MiB; "
            f"free some disk or lower data.image_size"
        )
    known = pack(step.folder / "images.npy", files, shape, data, step.title, partial(_refuse, tables=tables))
    index = _index(tables, data.id, position, known)
    write_parquet(step.folder / "index.parquet", index)
    contents = hashlib.sha256(index[["set", "id", "content"]].to_csv(index=False).encode()).hexdigest()[:16]
    write_json(step.folder / "statistics.json", {**_statistics(step.folder, index), "contents": contents})
    step.done()


def pack(
    path: Path,
    files: list[Path],
    shape: tuple[int, ...],
    data: Data,
    title: str,
    refuse: Callable[[list[tuple[Path, str]]], None],
) -> list[Decoded]:
    """Decode files into one array of `shape` (N, S, S, C) at `path`; gives what is known of each. `refuse`
    raises a `UserError` for the files that are broken and why; what was at `path` then stays."""
    cv2.setNumThreads(0)  # parallel over images; threads inside one image only get in each other's way
    known: list[Decoded | None] = [None] * len(files)
    broken: list[tuple[Path, str]] = []
    with atomic(path) as temporary:
        packed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)

        def work(i: int) -> None:
            try:
                decoded = decode(files[i], data)
            except UserError as error:
                broken.append((files[i], str(error)))
                return
            except OSError as error:  # not to be taken for trouble with writing the cache
                broken.append((files[i], f"the file cannot be read ({error.strerror or error})"))
                return
            if decoded.pixels.shape[2] != shape[3]:
                count = decoded.pixels.shape[2]
                broken.append((files[i], f"it has {count} channel(s), {files[0].name} has {shape[3]}"))
                return
            packed[i] = decoded.pixels
            known[i] = Decoded(**{**vars(decoded), "pixels": None})

        with Progress(title, len(files)) as progress, ThreadPoolExecutor(cpu_count()) as pool:
            for _ in pool.map(work, range(len(files))):
                progress.step()
        if broken:
            refuse(broken)
        _check_depth(files, known, data)
        packed.flush()
    return known


def channels_of(file: Path, data: Data) -> int:
    """The channels that the cache will have: 3 for pictures; what the first file has for arrays, and where
    data.preprocess may have changed it."""
    if file.suffix.lower() not in READERS and data.preprocess is None:
        return 3
    try:
        return decode(file, data).pixels.shape[2]
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _refuse(broken: list[tuple[Path, str]], tables: Tables) -> None:
    path, why = min(broken)
    role = "train" if path in set(tables.images["train"]) else "test"
    row = tables.images[role].index(path)
    others = f" ({len(broken)} such files in all)" if len(broken) > 1 else ""
    raise UserError(
        f"{path} (row {row + 2} of the {role} table): {why}{others}; fetch it again, or take its row out"
    )


def _check_depth(files: list[Path], known: list[Decoded], data: Data) -> None:
    """12-bit values in a 16-bit file would come out almost black: ask instead of guessing."""
    deep = [i for i, d in enumerate(known) if d.brightest > 255 or "16" in d.mode]
    if deep and data.max_value is None and data.squeeze is None:
        top = max(known[i].brightest for i in deep)
        if top < 65535 / 4:
            raise UserError(
                f"{files[deep[0]]}: a 16-bit image, but no such image is brighter than {top:.0f} of 65535; "
                f"set data.max_value (4095 for 12 bits) to say what white is"
            )


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


def _statistics(folder: Path, index: pd.DataFrame) -> dict[str, Any]:
    """Channel mean and std of the training images in units of white (0 to 1), exact, from their
    histograms."""
    packed = np.load(folder / "images.npy", mmap_mode="r")
    channels = packed.shape[3]
    counts = np.zeros((channels, 256), dtype=np.int64)
    positions = index.loc[index["set"] == "train", "position"].to_numpy()
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
    """The packed images, opened without reading them, and where each row of the tables lies in them."""

    pixels: np.ndarray  # (N, S, S, C) uint8, memory-mapped
    train: np.ndarray  # position of each row of train.csv
    test: np.ndarray
    train_ids: list[str]
    test_ids: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_sizes: list[tuple[int, int]] = field(default_factory=list)  # height and width of each file
    test_sizes: list[tuple[int, int]] = field(default_factory=list)
    extra: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # of images that no table lists
    extra_ids: list[str] = field(default_factory=list)
    extra_sizes: list[tuple[int, int]] = field(default_factory=list)
    seen: int | None = None  # side of the centre that is looked at without augmentation; None: the whole

    def look(self, positions: np.ndarray) -> np.ndarray:
        """(B, S, S, C) uint8 of the images there, as they are evaluated: whole, or their centre."""
        side = self.pixels.shape[1]
        first = 0 if self.seen is None else (side - self.seen) // 2
        centre = slice(first, side if self.seen is None else first + self.seen)
        return self.pixels[positions][:, centre, centre]


def open_images(step: Step) -> ImageStore:
    """Open the cache that the images step made."""
    index = pd.read_parquet(
        step.folder / "index.parquet", columns=["set", "id", "position", "height", "width"]
    )
    statistics = json.loads((step.folder / "statistics.json").read_text(encoding="utf-8"))
    train, test = (index[index["set"] == role] for role in ("train", "test"))
    return ImageStore(
        pixels=np.load(step.folder / "images.npy", mmap_mode="r"),
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
