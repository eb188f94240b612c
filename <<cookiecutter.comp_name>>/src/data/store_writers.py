"""Writers of the image store formats (`data.storage`): one array, tar shards, or only a list of files.

Each writer takes an image in the thread that decoded it (`take`), writes it in file order (`put`), checks on
resume whether a written image is intact (`holds`), and moves the finished store into place (`finish`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from src.artifacts import write_parquet
from src.data.pixels import ShardImages, encoded, ending_of

SHARD = 1000  # images per shard: a file of some megabytes
BLOCK = 512  # block size of tar in bytes; a tar file ends with two empty blocks


class ArrayWriter:
    """Writer of one array (N, S, S, C) in a .npy file, filled in place."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.shape, self.part = path, shape, path.with_name(f".{path.name}.part")

    @property
    def size(self) -> int:
        """Size on disk in bytes."""
        return int(np.prod(self.shape))

    def begin(self) -> None:
        """Allocate the file."""
        self.array = np.lib.format.open_memmap(self.part, mode="w+", dtype=np.uint8, shape=self.shape)

    def go_on(self) -> bool:
        """Open the partial file; False if there is none with this shape."""
        if not self.part.exists():
            return False
        try:
            self.array = np.lib.format.open_memmap(self.part, mode="r+")
        except (ValueError, EOFError, SyntaxError):  # truncated, or without a complete header
            return False
        return self.array.shape == self.shape and self.array.dtype == np.uint8

    def take(self, i: int, pixels: np.ndarray) -> None:
        """Write image i, in the calling thread."""
        self.array[i] = pixels

    def put(self, i: int, taken: None) -> dict[str, Any]:
        """The journal entry of image i: its checksum."""
        return {"crc": crc32(self.array[i])}

    def holds(self, i: int, note: dict[str, Any]) -> bool:
        """Whether image i matches its journal entry: a power failure may lose pixels."""
        return crc32(self.array[i]) == note["crc"]

    def finish(self, notes: list[dict[str, Any]]) -> None:
        """Move the finished array into place."""
        self.array.flush()
        os.replace(self.part, self.path)

    def drop(self) -> None:
        """Delete the partial file."""
        self.part.unlink(missing_ok=True)


class ShardWriter:
    """Writer of tar shards of `SHARD` encoded images each, in the webdataset layout, and a table with the
    offset of each image."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.shape, self.folder = path, shape, path.with_suffix("")
        self.part = path.with_name(f".{path.name}.part")
        self.ends: dict[int, int] = {}  # end of the verified part of each shard

    @property
    def size(self) -> int:
        """Approximate size on disk in bytes: a quarter of the pixels for images that JPEG can encode."""
        pixels = int(np.prod(self.shape))
        return pixels // 4 if self.shape[3] in (1, 3) else pixels

    def begin(self) -> None:
        """Create an empty folder."""
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        self.ends.clear()

    def go_on(self) -> bool:
        """Whether there is a partial store."""
        return self.part.is_dir()

    def take(self, i: int, pixels: np.ndarray) -> bytes:
        """Encode image i, in the calling thread."""
        return encoded(pixels)

    def put(self, i: int, taken: bytes) -> dict[str, Any]:
        """Append image i to its shard in one write; returns its journal entry."""
        shard = i // SHARD
        path, start = self.part / ShardImages.NAME.format(shard), self.ends.get(shard, 0)
        header = tarfile.TarInfo(f"{i:09d}.{ending_of(self.shape[3])}")
        header.size = len(taken)
        member = header.tobuf(tarfile.USTAR_FORMAT) + taken + bytes(-len(taken) % BLOCK)
        with open(path, "r+b" if path.exists() else "w+b", buffering=0) as file:
            file.truncate(start)  # drop a half-written image and everything that is not verified
            file.seek(start)
            file.write(member)
        self.ends[shard] = start + len(member)
        return {"crc": crc32(taken), "offset": start + BLOCK, "size": len(taken)}

    def holds(self, i: int, note: dict[str, Any]) -> bool:
        """Whether image i is intact at the offset of its journal entry, directly after the image before
        it."""
        shard, size, end = i // SHARD, note["size"], note["offset"] + note["size"]
        with contextlib.suppress(OSError), open(self.part / ShardImages.NAME.format(shard), "rb") as file:
            file.seek(note["offset"])
            if note["offset"] - BLOCK == self.ends.get(shard, 0) and crc32(file.read(size)) == note["crc"]:
                self.ends[shard] = end + -end % BLOCK
                return True
        return False

    def finish(self, notes: list[dict[str, Any]]) -> None:
        """Close the tar files, move them into place and write the table."""
        for path in self.part.iterdir():
            with open(path, "ab") as file:
                file.write(bytes(2 * BLOCK))
        shutil.rmtree(self.folder, ignore_errors=True)
        os.replace(self.part, self.folder)
        table = pd.DataFrame({key: [note[key] for note in notes] for key in ("offset", "size")})
        table.insert(0, "shard", np.arange(len(notes)) // SHARD)
        write_parquet(self.path, table.assign(channels=np.uint8(self.shape[3])))

    def drop(self) -> None:
        """Delete the partial store."""
        shutil.rmtree(self.part, ignore_errors=True)


class FileListWriter:
    """Writer of a table with the paths of the image files below `raw`; the files are decoded on each
    access."""

    size = 0  # bytes on disk

    def __init__(self, path: Path, shape: tuple[int, ...], files: list[Path], raw: Path):
        self.path, self.shape, self.files, self.raw = path, shape, files, raw

    def begin(self) -> None:
        """No-op: there is nothing to allocate."""

    def go_on(self) -> bool:
        """Always True: the journal is the only state."""
        return True

    def take(self, i: int, pixels: np.ndarray) -> None:
        """No-op: decoding has shown that the file is readable."""

    def put(self, i: int, taken: None) -> dict[str, Any]:
        """The journal entry, which is empty."""
        return {}

    def holds(self, i: int, note: dict[str, Any]) -> bool:
        """Always True: the journal compares size and modification time of the file."""
        return True

    def finish(self, notes: list[dict[str, Any]]) -> None:
        """Write the table."""
        names = [path.relative_to(self.raw).as_posix() for path in self.files]
        write_parquet(self.path, pd.DataFrame({"file": names, "channels": np.uint8(self.shape[3])}))

    def drop(self) -> None:
        """No-op: there is nothing to delete."""
