"""Segmentation masks: mask files or run lengths, decoded once, at the cached size for training and at the
original size for scoring.

`masks.npy` is (N, S, S, C) uint8, 0 or 255. `masks.parquet` has the id of each training row, a PNG per class
in a column named after the class, and `coverage.<class>`, the share of the image that the class covers.
`masks.json` has one digest of all masks, which does not depend on the library that wrote the tables.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from src.artifacts import atomic, write_json, write_parquet, writing
from src.config import Config, Data, UserError
from src.data.damage import damage_in, listening
from src.data.decode import READERS, content_box, imdecode, kind_of, pillow, readable
from src.data.orientation import orientation, turned, upright_mask
from src.data.rle import decode_runs
from src.machine import cpu_count
from src.maps import encode_map
from src.progress import Progress
from src.reading import parquet_footer, read_array, read_parquet
from src.tasks.base import is_ours

COVERAGE = "coverage."  # prefix of a class in masks.parquet


# --- what the classes are called ----------------------------------------------------------------------------


def mask_classes(config: Config, targets: pd.DataFrame) -> list[str]:
    """The names of the mask classes: of mask values, or of run-length columns; "mask" if the only class has
    no name. Raises `UserError` for a reserved name, and for names that differ from those in the data.long
    column."""
    data = config.data
    names = _class_names(data, targets)
    if not names:
        raise UserError(f"`{data.long}` is empty in every row of {data.train_csv}; it should name classes")
    if data.rle is not None and data.long is None and len(names) > 1:
        raise UserError(
            f"data.mask_classes names {len(names)} classes, data.rle={data.rle} holds one; "
            f"name the column that says the class in data.long"
        )
    if data.rle is not None and data.long is not None and sorted(names) != sorted(targets.columns):
        raise UserError(
            f"data.mask_classes names {', '.join(names)}, but `{data.long}` holds "
            f"{', '.join(targets.columns)}; leave data.mask_classes out"
        )
    taken = [name for name in names if is_ours(name) or name.startswith(COVERAGE)]
    if taken:
        where = "data.mask_classes" if data.mask_classes is not None else f"`{data.long}`"
        raise UserError(f"{where}: a class is called {taken[0]!r}, as a column of our tables is; rename it")
    return names


def _class_names(data: Data, targets: pd.DataFrame) -> list[str]:
    if data.mask_classes is not None:
        return list(data.mask_classes)
    return list(targets.columns) if data.rle is not None and data.long is not None else ["mask"]


# --- one mask -----------------------------------------------------------------------------------------------


def read_mask_file(
    path: Path,
    height: int,
    width: int,
    classes: tuple[str, ...] | None,
    of_image: int = 1,
    lies: str | None = None,
) -> np.ndarray:
    """Read a mask file as (C, H, W) bool. The mask is used as stored, without EXIF rotation, unless its image
    is rotated by EXIF or the sizes require it: see orientation.py. `of_image` is the EXIF orientation of the
    image.

    Without `classes` there is one class: every value except 0. With `classes`, value 1 is the first class, 2
    the second, and so on. Raises `UserError` if the size differs from the image's, and for unexpected values.
    """
    values, kind = stored_values(path)
    if of_image != 1 or values.shape != (height, width):
        # TIFF readers already apply the orientation
        own = 1 if kind.startswith("TIFF") else orientation(path)
        values = upright_mask(values, own, of_image, (height, width), lies)
    if values.shape != (height, width):
        raise UserError(
            f"the mask is {values.shape[0]} high and {values.shape[1]} wide, its image {height} and {width}; "
            f"every mask should have its image's size"
        )
    return _one_class(values, kind)[None] if classes is None else _by_value(values, classes)


def stored_values(path: Path) -> tuple[np.ndarray, str]:
    """(H, W) values in the file's own bit depth, and the kind of file. Raises `UserError` if the file is no
    mask."""
    with readable():
        return _stored_values(path)


def _stored_values(path: Path) -> tuple[np.ndarray, str]:
    content = path.read_bytes()
    if not content:
        raise UserError("the file is empty (0 bytes); fetch it again")
    if path.suffix.lower() == ".npy":
        pixels, kind = READERS[".npy"](content, Data())
    else:
        kind = kind_of(content)
        pixels = _as_stored(content, kind)
    if pixels.ndim == 2:
        return pixels, kind
    colours = pixels[:, :, : 3 if pixels.shape[2] >= 3 else 1]  # a further channel is alpha
    if (colours != colours[:, :, :1]).any():
        raise UserError(
            "its colour channels differ; a mask has one number a pixel: 0 for the ground, then the class"
        )
    return colours[:, :, 0], kind


def _as_stored(content: bytes, kind: str) -> np.ndarray:
    """(H, W) or (H, W, channels) without EXIF rotation (in TIFF the orientation is part of the format, and is
    applied); for a palette image the colour indices."""
    # OpenCV would return the colours instead of the indices
    if kind.split()[1].rstrip(",") in ("P", "PA", "1"):
        with pillow().open(io.BytesIO(content)) as image:
            return np.asarray(image).astype(np.uint8)
    return imdecode(content, cv2.IMREAD_UNCHANGED)


def _one_class(values: np.ndarray, kind: str) -> np.ndarray:
    """(H, W) bool: values other than 0, or values above half of white if the mask has soft edges."""
    top = values.max()
    between = values[(values != 0) & (values != top)]
    if not between.size:
        return values != 0
    white = 65535 if values.dtype == np.uint16 and top > 255 else 1 if top <= 1 else 255
    if kind.startswith(("JPEG", "MPO")):  # JPEG blurs every edge, and a thin object entirely
        soft = white / 2 <= top
    else:  # in other formats soft edges reach up to white, and small numbers are classes, with or without 255
        soft = 0.9 * white <= top <= white and between.max() >= white / 8 and between.min() > 0
    if not soft:
        several = np.unique(values)
        shown = ", ".join(f"{value:g}" for value in several[:6]) + (", ..." if len(several) > 6 else "")
        raise UserError(
            f"it holds the values {shown}; name the classes 1, 2, ... in data.mask_classes "
            f"(of one class alone a mask is 0 and 255)"
        )
    return values >= white / 2


def _by_value(values: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """(C, H, W) bool: value 1 is the first class; if there is only one class 255 is accepted too."""
    n = len(classes)
    if n == 1 and ((values == 0) | (values == 255)).all():
        return (values == 255)[None]
    wrong = ~np.isin(values, np.arange(n + 1))
    if wrong.any():
        names = f"{n} classes, values 1 to {n}" if n > 1 else "1 class, value 1"
        raise UserError(f"it holds value {values[wrong][0]:g}, data.mask_classes names {names}")
    return np.stack([values == value for value in range(1, n + 1)])


# --- between an image's own size and the cached square ------------------------------------------------------


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a mask (C, H, W) bool: an output pixel is set if the mask covers half of it."""
    if mask.shape[1:] == (height, width):
        return mask
    smaller = min(width, mask.shape[2]), min(height, mask.shape[1])
    levels = [one.astype(np.uint8) * 255 for one in mask]
    # area-average along a side that shrinks, then interpolate along one that grows: OpenCV does one of both
    # per call
    shrunk = [cv2.resize(one, smaller, interpolation=cv2.INTER_AREA) for one in levels]
    grown = [cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in shrunk]
    return np.stack(grown) > 127


def fit_mask(mask: np.ndarray, settings: Data) -> np.ndarray:
    """(C, H, W) bool to (S, S, C) uint8, 0 or 255, placed like the image in the cached square."""
    _, _, height, width = content_box(*mask.shape[1:], settings)
    resized = resize_mask(mask, height, width).astype(np.uint8) * 255
    return frame(resized, *mask.shape[1:], settings).transpose(1, 2, 0)


def crop_inside(maps: np.ndarray, height: int, width: int, settings: Data) -> np.ndarray:
    """(C, S, S) to (C, h, w): crop to the part that an image of this size covers."""
    top, left, h, w = content_box(height, width, settings)
    return maps[:, top : top + h, left : left + w]


def frame(maps: np.ndarray, height: int, width: int, settings: Data, fill: float = 0) -> np.ndarray:
    """The inverse of `crop_inside`: (C, h, w) to (C, S, S), padded with `fill`."""
    top, left, h, w = content_box(height, width, settings)
    side = settings.cached_size
    framed = np.full((len(maps), side, side), fill, maps.dtype)
    framed[:, top : top + h, left : left + w] = maps
    return framed


# --- all masks ----------------------------------------------------------------------------------------------


def build_masks(
    folder: Path,
    tables: Any,
    sizes: list[tuple[int, int]],
    settings: Data,
    title: str,
    turns: Sequence[int] = (),
) -> None:
    """Write `masks.npy`, `masks.parquet` and `masks.json`: a row for each row of `tables.train`. `sizes` are
    the upright image sizes (height, width), `turns` their EXIF orientations. `tables` are the `Tables` of
    data/tables.py, which imports this module.

    Raises `UserError` naming the first invalid mask, and how many there are.
    """
    classes = _class_names(settings, tables.targets)
    ids, side = tables.train[settings.id].tolist(), settings.cached_size
    shape = (len(ids), side, side, len(classes))
    _check_space(folder, int(np.prod(shape)))
    print(f"{title}: {len(ids):,} of {', '.join(classes)}")
    cells: list[list[bytes]] = [[]] * len(ids)
    shares = np.zeros((len(ids), len(classes)))
    digests = [""] * len(ids)
    broken: dict[int, str] = {}
    # rows during whose decoding libjpeg printed a message, perhaps about another row
    doubtful: list[int] = []
    cv2.setNumThreads(0)  # parallel over masks, as over images
    with atomic(folder / "masks.npy") as temporary:
        packed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)

        def work(row: int) -> None:
            try:
                mask = _mask_of_row(row, tables, sizes[row], settings, classes, turns[row] if turns else 1)
            except UserError as error:
                broken[row] = str(error)
                return
            packed[row] = fit_mask(mask, settings)
            cells[row] = [encode_map(one.astype(np.uint8) * 255) for one in mask]
            shares[row] = mask.mean((1, 2))
            digests[row] = hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()

        def heard(row: int) -> None:
            before = listener.heard()
            work(row)
            if listener.heard() != before:
                doubtful.append(row)

        with (
            listening() as listener,
            Progress(title, len(ids)) as progress,
            ThreadPoolExecutor(cpu_count()) as pool,
        ):
            for _ in pool.map(heard, range(len(ids))):
                progress.step()
            for row in sorted(doubtful):
                why = damage_in(listener.alone(partial(work, row))[1], b"")
                if why is not None:
                    broken.setdefault(row, f"{why}; fetch it again")
        if broken:
            first = min(broken)
            more = f" ({len(broken)} such masks in all)" if len(broken) > 1 else ""
            line = None if tables.masks is None else tables.line("train", first)
            where = "" if line is None else f"{tables.masks[first]} (row {line} of the train table): "
            raise UserError(f"{where}{broken[first]}{more}")
        for name, share in zip(classes, shares.T, strict=True):
            if not share.any():
                key = "data.rle" if settings.rle is not None else "data.train_masks"
                raise UserError(f"class {name!r} is empty in every mask; is {key} right?")
        packed.flush()
    table = pd.DataFrame({"id": ids} | {name: [row[c] for row in cells] for c, name in enumerate(classes)})
    covered = pd.DataFrame(shares, columns=[COVERAGE + name for name in classes])
    write_parquet(folder / "masks.parquet", table.join(covered))
    whole = json.dumps([classes, ids, digests])
    write_json(folder / "masks.json", {"contents": hashlib.sha256(whole.encode()).hexdigest()})


def _mask_of_row(
    row: int, tables: Any, size: tuple[int, int], settings: Data, classes: list[str], turn: int
) -> np.ndarray:
    """(C, H, W) bool. For run lengths a `UserError` names the table and the id."""
    if tables.masks is not None:
        return read_mask_file(tables.masks[row], *size, settings.mask_classes, turn, settings.mask_exif)
    # runs of several table rows may be joined here, so the message names the id instead of the row
    columns = tables.targets.columns if settings.long is None else classes
    where = f"{settings.train_csv}, `{settings.id}` {tables.train[settings.id].iloc[row]!r}"
    turn = turn if settings.mask_exif == "stored" else 1
    size = size[::-1] if turn >= 5 else size
    decoded = []
    for name in columns:
        try:
            decoded.append(turned(decode_runs(tables.targets[name].iloc[row], *size), turn))
        except UserError as error:
            of = "" if settings.long is None else f", class {name!r}"
            raise UserError(f"{where}{of}: {error}") from None
    return np.stack(decoded)


def _check_space(folder: Path, size: int) -> None:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if size > shutil.disk_usage(folder).free:
        raise UserError(
            f"{folder}: the masks need {size / 2**20:,.0f} MiB; free some disk or lower data.image_size"
        )


def open_masks(folder: Path) -> np.memmap:
    """(N, S, S, C) uint8, 0 or 255, of the training rows, memory-mapped."""
    return read_array(folder / "masks.npy", 4)


def coverage(folder: Path) -> pd.DataFrame:
    """(N, C) the share of each training image that each class covers, 0 to 1, one column per class."""
    path = folder / "masks.parquet"
    columns = [name for name in parquet_footer(path)[1] if name.startswith(COVERAGE)]
    return read_parquet(path, columns).rename(columns=lambda name: name.removeprefix(COVERAGE))


def true_masks(folder: Path, classes: list[str]) -> pd.DataFrame:
    """(N, C) the PNG masks of the training rows at the original image sizes, one column per class."""
    return read_parquet(folder / "masks.parquet", classes)
