"""Decode once: every image resized to the training resolution into one packed uint8 array, shared by every
run.

`images.npy` is (N, S, S, 3) RGB; `index.parquet` has a row a table row (set, id, position in the array, file,
size, mode, content hash, perceptual hash, thumbnail); `statistics.json` has the training images' channel mean
and std.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from src.artifacts import Step, atomic, write_json, write_parquet, writing
from src.config import Data, UserError
from src.data.tables import Tables
from src.machine import cpu_count
from src.progress import Progress

THUMBNAIL = 16  # pixels a side, grey: enough to tell a true near-duplicate from a chance hit of the hash


@dataclass(frozen=True)
class Decoded:
    """One image file: its pixels at the cached size (S, S, 3) uint8, and what is known of the file."""

    pixels: np.ndarray
    height: int
    width: int
    mode: str
    brightest: float
    content: str
    phash: int
    thumbnail: bytes


def build_cache(step: Step, tables: Tables, data: Data) -> None:
    """Make the three files of the images step; raises `UserError` naming the first unreadable image."""
    files = list(dict.fromkeys([*tables.images["train"], *tables.images["test"]]))
    position = {file: i for i, file in enumerate(files)}
    shape = (len(files), data.image_size, data.image_size, 3)
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
    cv2.setNumThreads(0)  # parallel over images; threads inside one image only get in each other's way
    known: list[Decoded | None] = [None] * len(files)
    broken: list[tuple[Path, str]] = []
    with atomic(step.folder / "images.npy") as temporary:
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
            packed[i] = decoded.pixels
            known[i] = Decoded(**{**vars(decoded), "pixels": None})

        with Progress(step.title, len(files)) as progress, ThreadPoolExecutor(cpu_count()) as pool:
            for _ in pool.map(work, range(len(files))):
                progress.step()
        if broken:
            _refuse(broken, tables)
        _check_depth(files, known, data)
        packed.flush()
    index = _index(tables, data.id, position, known)
    write_parquet(step.folder / "index.parquet", index)
    contents = hashlib.sha256(index[["set", "id", "content"]].to_csv(index=False).encode()).hexdigest()[:16]
    write_json(step.folder / "statistics.json", {**_statistics(step.folder, index), "contents": contents})
    step.done()


def decode(path: Path, data: Data) -> Decoded:
    """Read an image of any usual kind as 8-bit RGB at the cached size.

    Grey, CMYK, RGBA, 16-bit and EXIF-rotated files come out upright in RGB; alpha is dropped. Raises
    `UserError` for a file that is empty, no image, or ends early (OpenCV would fill the rest with grey and
    say nothing).
    """
    content = path.read_bytes()
    if not content:
        raise UserError("the file is empty (0 bytes)")
    mode = _header(content)
    pixels = _pixels(content, mode)
    brightest = float(pixels.max())
    height, width = pixels.shape[:2]
    if pixels.dtype != np.uint8:
        white = data.max_value or (65535.0 if pixels.dtype == np.uint16 else 1.0)
        pixels = np.clip(pixels.astype(np.float32) * (255.0 / white) + 0.5, 0, 255).astype(np.uint8)
        mode = f"{mode}, 16 bits" if "16" not in mode else mode
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
    thumbnail = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    hashed = hashlib.sha256(content).hexdigest()[:16]
    return Decoded(
        _fit(pixels, data), height, width, mode, brightest, hashed, _phash(grey), thumbnail.tobytes()
    )


def _pixels(content: bytes, mode: str) -> np.ndarray:
    """(H, W, 3) RGB, upright, in the file's own depth."""
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:  # such as one of more than 2**30 pixels
        raise UserError(f"the file cannot be decoded ({error.err})") from None
    if pixels is None:
        raise UserError("the file cannot be decoded")
    if (
        mode.startswith("TIFF RGBA") and pixels.dtype == np.uint8
    ):  # OpenCV darkens by alpha here, and here alone
        from PIL import Image, ImageOps

        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # IMREAD_COLOR_RGB scrambles 16-bit TIFF in OpenCV 5.0.0


def _header(content: bytes) -> str:
    """The kind of image as a short text, such as `JPEG RGB` or `JPEG RGB, turned by EXIF`; raises for a
    cut-off file."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # a slide of 400 million pixels is data here, not an attack
    try:
        with Image.open(io.BytesIO(content)) as image:
            turned = ", turned by EXIF" if image.getexif().get(0x0112, 1) != 1 else ""
            kind = f"{image.format} {image.mode}{turned}"
            whole = image.format in ("JPEG", "MPO") and b"\xff\xd9" in content[-64:]
            if (
                not whole
            ):  # decode in full (a PNG was already, to see its EXIF): Pillow says when data is missing
                image.load()
            return kind
    except UnidentifiedImageError:
        raise UserError(
            "the file is no image that can be read (is it a web page or a Git LFS pointer?)"
        ) from None
    except Exception as error:  # Pillow's readers raise errors of a dozen kinds for a damaged file
        raise UserError(f"the file is cut off or damaged ({error})") from None


def _fit(pixels: np.ndarray, data: Data) -> np.ndarray:
    """(H, W, 3) to (S, S, 3), stretched, or kept in shape with black on both sides."""
    side = data.image_size
    height, width = pixels.shape[:2]
    if data.fit == "pad":
        scale = side / max(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        inside = _resize(pixels, height, width)
        top, left = (side - height) // 2, (side - width) // 2
        return cv2.copyMakeBorder(
            inside, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=(0, 0, 0)
        )
    return _resize(pixels, side, side)


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area averaging on the way down (it does not alias), cubic on the way up."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _phash(grey: np.ndarray) -> int:
    """64-bit perceptual hash of a grey image, by ImageHash (DCT signs about the median)."""
    import imagehash
    from PIL import Image

    bits = imagehash.phash(Image.fromarray(grey)).hash.ravel()
    return int(np.packbits(bits).view(">u8")[0])


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
    if deep and data.max_value is None:
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
    counts = np.zeros((3, 256), dtype=np.int64)
    positions = index.loc[index["set"] == "train", "position"].to_numpy()
    for start in range(0, len(positions), 256):
        block = packed[positions[start : start + 256]]  # (n, S, S, 3)
        counts += np.stack([np.bincount(block[..., c].ravel(), minlength=256) for c in range(3)])
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

    pixels: np.ndarray  # (N, S, S, 3) uint8, memory-mapped
    train: np.ndarray  # position of each row of train.csv
    test: np.ndarray
    train_ids: list[str]
    test_ids: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def open_images(step: Step) -> ImageStore:
    """Open the cache that the images step made."""
    index = pd.read_parquet(step.folder / "index.parquet", columns=["set", "id", "position"])
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
    )
