"""Unlabelled images that no table lists (`pseudo.external`): packed beside the cache, for stage 04 alone.

`extra-<key>.npy` is (N, S, S, C) uint8 as images.npy is; `extra-<key>.parquet` has a row an image that may be
asked (id, position in the array, file, size, content hash). Ids are `extra/<folder>/<path>`, which no table
may use, and no submission holds one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import Step, write_parquet
from src.config import Config, UserError
from src.data.folds import duplicate_groups
from src.data.images import ImageStore
from src.data.packing import pack
from src.data.tables import IMAGE_SUFFIXES
from src.rawfiles import external_folders
from src.steps import extra_step, images_step

PREFIX = "extra/"  # of ids


def build_extra(step: Step, config: Config) -> None:
    """Pack the external images; those that look like one of the competition's, or like one before them, are
    left out and counted. Raises `UserError` for an unreadable file, an empty folder, or an id of ours."""
    files = external_files(config)
    index = pd.read_parquet(images_step(config).folder / "index.parquet")
    taken = index.loc[index["id"].str.startswith(PREFIX), "id"]
    if len(taken):
        raise UserError(f"pseudo.external: the id {taken.iloc[0]!r} starts as those of external images do")
    shape = (len(files), *np.load(step.folder / "images.npy", mmap_mode="r").shape[1:])
    known = pack(step.folder / step.outputs[0], list(files.values()), shape, config.data, step.title, _refuse)
    table = pd.DataFrame({"id": list(files), "position": np.arange(len(files))})
    for name in ("height", "width", "content", "phash", "thumbnail"):
        table[name] = [getattr(one, name) for one in known]
    table = table.astype({"phash": "uint64", "position": "int64"})
    new = is_new(table, index, config.data.near_duplicates)
    print(
        f"{step.title}: {new.sum():,} of {len(files):,} files; {(~new).sum():,} left out, which look like an "
        f"image of the competition or one before them"
    )
    write_parquet(
        step.folder / step.outputs[1], table[new].drop(columns=["phash", "thumbnail"]).reset_index(drop=True)
    )
    step.done()


def is_new(extra: pd.DataFrame, index: pd.DataFrame, bits: int) -> np.ndarray:
    """(N,) whether no image of `index`, and none before it in `extra`, is the same file or looks the same.

    A copy of a training row would be learned from with a label of its own fold's making, and that row is
    scored by what came of it.
    """
    columns = ["content", "phash", "thumbnail"]
    both = pd.concat([index[columns], extra[columns]], ignore_index=True)
    alike = pd.Series(duplicate_groups(both, bits)).duplicated() | both["content"].duplicated()
    return ~alike.to_numpy()[len(index) :]


def external_files(config: Config) -> dict[str, Path]:
    """Every image file below the folders of `pseudo.external`, by its id, in order."""
    files = {}
    for name, folder in external_folders(config).items():
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise UserError(
                f"{folder}: holds no image; set pseudo.external to a folder that does, or to null"
            )
        files |= {f"{PREFIX}{name}/{path.relative_to(folder).as_posix()}": path for path in paths}
    return files


def _refuse(broken: list[tuple[Path, str]]) -> None:
    path, why = min(broken)
    others = f" ({len(broken)} such files in all)" if len(broken) > 1 else ""
    raise UserError(f"{path}: {why}{others}; take it out of the folder of external images")


class Joined:
    """Two packed arrays (N1, S, S, C) and (N2, S, S, C), looked at as one (N1 + N2, S, S, C)."""

    def __init__(self, first: np.ndarray, second: np.ndarray):
        self.first, self.second = first, second
        self.shape = (len(first) + len(second), *first.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, positions: Any) -> np.ndarray:
        """The images at whole numbers, one or an array (B,)."""
        positions = np.asarray(positions)
        if positions.ndim == 0:
            return self[positions[None]][0]
        late = positions >= len(self.first)
        if not late.any():
            return self.first[positions]
        images = np.empty((len(positions), *self.shape[1:]), np.uint8)
        images[~late] = self.first[positions[~late]]
        images[late] = self.second[positions[late] - len(self.first)]
        return images


def with_extra(store: ImageStore, config: Config) -> ImageStore:
    """The store with the external images of this config at its end; as it is where there are none, or stage
    01 has not packed them: stage 04, which alone needs them, asks for that."""
    step = extra_step(config)
    if step is None or not step.fresh():
        return store
    table = pd.read_parquet(step.folder / step.outputs[1])
    return replace(
        store,
        pixels=Joined(store.pixels, np.load(step.folder / step.outputs[0], mmap_mode="r")),
        extra=len(store.pixels) + table["position"].to_numpy(),
        extra_ids=table["id"].tolist(),
        extra_sizes=list(zip(table["height"].tolist(), table["width"].tolist(), strict=True)),
    )
