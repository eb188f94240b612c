"""Many image files into one array, over all cores; killed and started again, it goes on where it was.

Beside the array, which grows as `.<name>.part`, lies a journal: a line a finished image, with its file's size
and time and a checksum of its pixels. What the journal says is believed only where all of that still holds.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import cv2
import numpy as np

from src.artifacts import writing
from src.config import Data, UserError
from src.data.decode import Decoded, decode
from src.machine import cpu_count, memory_available
from src.owncode import preprocessing
from src.progress import Progress

FORMAT = 1  # of the journal; one of another is not gone on from
SETTINGS = {"fit", "max_value", "squeeze"}  # of the data, that change pixels beside their size


def pack(
    path: Path,
    files: list[Path],
    shape: tuple[int, ...],
    data: Data,
    title: str,
    refuse: Callable[[list[tuple[Path, str]]], None],
) -> list[Decoded]:
    """Decode files into one array of `shape` (N, S, S, C) at `path`; gives what is known of each, without its
    pixels. `refuse` raises a `UserError` for the files that are broken and why; what was at `path` then
    stays."""
    cv2.setNumThreads(0)  # parallel over images; threads inside one image only get in each other's way
    work = Work(path, files, shape, data)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        packed, known = work.begin()
        broken: list[tuple[Path, str]] = []

        def one(i: int) -> Decoded | None:
            try:
                return _decode_into(packed, i, files, data)
            except UserError as error:
                broken.append((files[i], str(error)))
                return None

        todo = [i for i in range(len(files)) if i not in known]
        with Progress(title, len(todo)) as progress, ThreadPoolExecutor(cpu_count()) as pool:
            if known:
                progress.say(f"{title}: goes on with {len(todo):,} files; {len(known):,} were packed before")
            with open(work.journal, "a", buffering=1, encoding="utf-8") as journal:  # a kill takes no lines
                for i, decoded in zip(todo, pool.map(one, todo), strict=True):
                    progress.step()
                    if decoded is not None:
                        known[i] = decoded
                        journal.write(json.dumps(work.line(i, decoded, packed[i])) + "\n")
        try:
            if broken:
                refuse(broken)
            in_order = [known[i] for i in range(len(files))]
            _check_depth(files, in_order, data)
        except UserError:
            work.drop()
            raise
        work.finish(packed)
    return in_order


def _decode_into(packed: np.ndarray, i: int, files: list[Path], data: Data) -> Decoded:
    try:
        decoded = decode(files[i], data)
    except OSError as error:  # not to be taken for trouble with writing the cache
        raise UserError(f"the file cannot be read ({error.strerror or error})") from None
    if decoded.pixels.shape[2] != packed.shape[3]:
        count = decoded.pixels.shape[2]
        raise UserError(f"it has {count} channel(s), {files[0].name} has {packed.shape[3]}")
    packed[i] = decoded.pixels
    return Decoded(**{**vars(decoded), "pixels": None})


@dataclass(frozen=True)
class Work:
    """The array as far as it is packed, and its journal."""

    path: Path
    files: list[Path]
    shape: tuple[int, ...]
    data: Data

    @property
    def part(self) -> Path:
        return self.path.with_name(f".{self.path.name}.part")

    @property
    def journal(self) -> Path:
        return self.path.with_name(f".{self.path.name}.journal")

    def head(self) -> dict[str, Any]:
        """What every line of the journal rests on."""
        settings = self.data.model_dump(mode="json", include=SETTINGS) | {"own": preprocessing(self.data)}
        return {"format": FORMAT, "shape": list(self.shape), "settings": settings}

    def begin(self) -> tuple[np.ndarray, dict[int, Decoded]]:
        """The array (N, S, S, C) to write into, and what of it is done."""
        known: dict[int, Decoded] = {}
        if self.part.exists() and self.journal.exists():
            packed = np.lib.format.open_memmap(self.part, mode="r+")
            known = dict(self._done(packed))
        if not known:
            self.journal.write_text(json.dumps(self.head()) + "\n", encoding="utf-8")
            packed = np.lib.format.open_memmap(self.part, mode="w+", dtype=np.uint8, shape=self.shape)
        return packed, known

    def _done(self, packed: np.ndarray) -> Iterator[tuple[int, Decoded]]:
        """Images of the journal whose file and pixels are what they were."""
        lines = self.journal.read_text(encoding="utf-8").splitlines()
        if not lines or _parsed(lines[0]) != self.head() or packed.shape != self.shape:
            return
        place = {str(file): i for i, file in enumerate(self.files)}
        for line in map(_parsed, lines[1:]):
            i = place.get(line["file"]) if line else None
            if i is None or line["at"] != i or line["stat"] != _stat(self.files[i]):
                continue
            if crc32(packed[i]) == line["crc"]:  # a machine that lost its power may have lost pixels
                known = line["known"] | {"thumbnail": base64.b64decode(line["known"]["thumbnail"])}
                yield i, Decoded(pixels=None, **known)

    def line(self, i: int, decoded: Decoded, pixels: np.ndarray) -> dict[str, Any]:
        """What the journal says of an image."""
        known = {key: value for key, value in asdict(decoded).items() if key != "pixels"}
        known["thumbnail"] = base64.b64encode(decoded.thumbnail).decode()
        file = self.files[i]
        return {"file": str(file), "at": i, "stat": _stat(file), "crc": crc32(pixels), "known": known}

    def finish(self, packed: np.ndarray) -> None:
        """Put the whole array in its place."""
        packed.flush()
        os.replace(self.part, self.path)
        self.journal.unlink()

    def drop(self) -> None:
        """Leave nothing behind."""
        for path in (self.part, self.journal):
            path.unlink(missing_ok=True)


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of the journal; None for one that was cut off when the process ended."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _stat(file: Path) -> list[int] | None:
    """Size and time of a file: another one of the same name is decoded again."""
    try:
        found = file.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


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


def report_size(path: Path, title: str, n: int, size: int) -> None:
    """Say before the work what an array of `size` bytes at `path` takes: disk, and memory to be read from it
    at full speed. Raises `UserError` where the disk is too small."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    free, memory = shutil.disk_usage(path.parent).free, memory_available()
    part = path.with_name(f".{path.name}.part")
    there = part.stat().st_blocks * 512 if part.exists() else 0  # of a build that was killed
    print(f"{title}: {n:,} files, {size / 2**20:,.0f} MiB on disk ({free / 2**20:,.0f} MiB free)")
    if size > free + there:
        raise UserError(
            f"{path.parent}: the image cache needs {size / 2**20:,.0f} MiB; "
            f"free some disk or lower data.image_size"
        )
    if memory is not None and size > memory:
        print(
            f"{title}: that is more than the {memory / 2**20:,.0f} MiB of memory that are free, so every "
            f"epoch will read from disk; a lower data.image_size may be faster"
        )
