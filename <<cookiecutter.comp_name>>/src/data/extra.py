"""External unlabelled images (`pseudo.external`) for pseudo-labels: packed beside the image cache, used by
stage 04 only.

They are stored like the others (`extra-<key>.npy` instead of `images.npy`). `extra-<key>.parquet` has a row
per image that may be pseudo-labelled (id, position in the store, file, size, content hash). Ids are
`extra/<folder>/<path>`; no table may use such an id, and no submission contains one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts import Step, write_parquet
from src.config import Config, UserError
from src.data.folds import duplicate_groups
from src.data.images import ImageStore, open_images
from src.data.packing import pack_images, refusal
from src.data.pixels import JoinedStores, open_pixels
from src.data.tables import IMAGE_SUFFIXES
from src.rawfiles import external_folders
from src.reading import read_parquet
from src.steps import extra_step, images_step

EXTERNAL_PREFIX = "extra/"  # prefix of the ids


def build_extra(step: Step, config: Config) -> None:
    """Pack the external images. Images that duplicate one of the competition's or an earlier external one are
    left out and counted. Raises `UserError` for an unreadable file, a folder without images, or a table id
    with the reserved prefix."""
    files = external_files(config)
    index = read_parquet(images_step(config).folder / "index.parquet")
    taken = index.loc[index["id"].str.startswith(EXTERNAL_PREFIX), "id"]
    if len(taken):
        raise UserError(f"pseudo.external: the id {taken.iloc[0]!r} starts as those of external images do")
    shape = (len(files), *open_images(config).pixels.shape[1:])
    path, paths, raw = step.folder / step.outputs[0], list(files.values()), config.root / config.data.raw
    known = pack_images(path, paths, shape, config.data, step.title, _refuse, raw)
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
    """(N,) whether an image is no duplicate or near-duplicate of one in `index` or of an earlier one in
    `extra`.

    A copy of a training row would leak: the next round would train on the copy with a pseudo-label from the
    models of the row's own fold, and would then be scored on that row.
    """
    columns = ["content", "phash", "thumbnail"]
    both = pd.concat([index[columns], extra[columns]], ignore_index=True)
    alike = pd.Series(duplicate_groups(both, bits)).duplicated() | both["content"].duplicated()
    return ~alike.to_numpy()[len(index) :]


def external_files(config: Config) -> dict[str, Path]:
    """All image files below the folders of `pseudo.external`, sorted, by id."""
    files = {}
    for name, folder in external_folders(config).items():
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise UserError(
                f"{folder}: holds no image; set pseudo.external to a folder that does, or to null"
            )
        files |= {f"{EXTERNAL_PREFIX}{name}/{path.relative_to(folder).as_posix()}": path for path in paths}
    return files


def _refuse(broken: list[tuple[Path, str]]) -> None:
    path, why = refusal(broken, "it out of the folder of external images")
    raise UserError(f"{path}: {why}")


def with_extra(store: ImageStore, config: Config) -> ImageStore:
    """Append the external images of this config to the store. The store is unchanged if there are none or
    stage 01 has not packed them; only stage 04 needs them, and it checks."""
    step = extra_step(config)
    if step is None or not step.fresh():
        return store
    table = read_parquet(step.folder / step.outputs[1], ["id", "position", "height", "width"])
    packed = open_pixels(step.folder / step.outputs[0], config.data, config.root / config.data.raw)
    return replace(
        store,
        pixels=JoinedStores(store.pixels, packed),
        extra=len(store.pixels) + table["position"].to_numpy(),
        extra_ids=table["id"].tolist(),
        extra_sizes=list(zip(table["height"].tolist(), table["width"].tolist(), strict=True)),
    )
