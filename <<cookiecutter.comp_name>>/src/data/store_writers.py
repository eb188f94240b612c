"""Images on their way into a store: one array, tar shards, or nowhere at all (`data.storage`).

Each kind takes an image from the thread that decoded it (`take`), writes it in the order of the files
(`put`), knows later whether what it wrote still holds (`holds`), and gives it its place when all are there.
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

SHARD = 1000  # images: a file of some megabytes
BLOCK = 512  # bytes of a tar file, which holds whole blocks and ends with two empty ones


class ArrayWriter:
    """One array (N, S, S, C) in a file, filled in place."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.shape, self.part = path, shape, path.with_name(f".{path.name}.part")

    @property
    def size(self) -> int:
        """Bytes of disk."""
        return int(np.prod(self.shape))

    def begin(self) -> None:
        """Make room."""
        self.array = np.lib.format.open_memmap(self.part, mode="w+", dtype=np.uint8, shape=self.shape)

    def go_on(self) -> bool:
        """Open what was begun; False where there is none of this shape."""
        if not self.part.exists():
            return False
        try:
            self.array = np.lib.format.open_memmap(self.part, mode="r+")
        except (ValueError, EOFError, SyntaxError):  # cut short, or never had a whole header
            return False
        return self.array.shape == self.shape and self.array.dtype == np.uint8

    def take(self, i: int, pixels: np.ndarray) -> None:
        """Write image i, in its own thread."""
        self.array[i] = pixels

    def put(self, i: int, taken: None) -> dict[str, Any]:
        """What a journal keeps of image i."""
        return {"crc": crc32(self.array[i])}

    def holds(self, i: int, note: dict[str, Any]) -> bool:
        """Whether image i is what the journal says: a machine that lost its power may have lost pixels."""
        return crc32(self.array[i]) == note["crc"]

    def finish(self, notes: list[dict[str, Any]]) -> None:
        """Put the whole array in its place."""
        self.array.flush()
        os.replace(self.part, self.path)

    def drop(self) -> None:
        """Leave nothing behind."""
        self.part.unlink(missing_ok=True)


class ShardWriter:
    """Tar files of `SHARD` encoded images each, in the layout that webdataset reads, and a table of where in
    them each image lies."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.shape, self.folder = path, shape, path.with_suffix("")
        self.part = path.with_name(f".{path.name}.part")
        self.ends: dict[int, int] = {}  # of what is known to hold, by shard

    @property
    def size(self) -> int:
        """Bytes of disk, roughly: a quarter of the pixels, where JPEG can take them."""
        pixels = int(np.prod(self.shape))
        return pixels // 4 if self.shape[3] in (1, 3) else pixels

    def begin(self) -> None:
        """An empty folder."""
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        self.ends.clear()

    def go_on(self) -> bool:
        """Whether anything was begun."""
        return self.part.is_dir()

    def take(self, i: int, pixels: np.ndarray) -> bytes:
        """Image i encoded, in its own thread."""
        return encoded(pixels)

    def put(self, i: int, taken: bytes) -> dict[str, Any]:
        """Append image i to its shard, in one write."""
        shard = i // SHARD
        path, start = self.part / ShardImages.NAME.format(shard), self.ends.get(shard, 0)
        header = tarfile.TarInfo(f"{i:09d}.{ending_of(self.shape[3])}")
        header.size = len(taken)
        member = header.tobuf(tarfile.USTAR_FORMAT) + taken + bytes(-len(taken) % BLOCK)
        with open(path, "r+b" if path.exists() else "w+b", buffering=0) as file:
            file.truncate(start)  # what a kill left half written, or nobody vouches for
            file.seek(start)
            file.write(member)
        self.ends[shard] = start + len(member)
        return {"crc": crc32(taken), "offset": start + BLOCK, "size": len(taken)}

    def holds(self, i: int, note: dict[str, Any]) -> bool:
        """Whether image i lies where the journal says, behind the one before it."""
        shard, size, end = i // SHARD, note["size"], note["offset"] + note["size"]
        with contextlib.suppress(OSError), open(self.part / ShardImages.NAME.format(shard), "rb") as file:
            file.seek(note["offset"])
            if note["offset"] - BLOCK == self.ends.get(shard, 0) and crc32(file.read(size)) == note["crc"]:
                self.ends[shard] = end + -end % BLOCK
                return True
        return False

    def finish(self, notes: list[dict[str, Any]]) -> None:
        """Close the tar files, put them in their place, and write the table."""
        for path in self.part.iterdir():
            with open(path, "ab") as file:
                file.write(bytes(2 * BLOCK))
        shutil.rmtree(self.folder, ignore_errors=True)
        os.replace(self.part, self.folder)
        table = pd.DataFrame({key: [note[key] for note in notes] for key in ("offset", "size")})
        table.insert(0, "shard", np.arange(len(notes)) // SHARD)
        write_parquet(self.path, table.assign(channels=np.uint8(self.shape[3])))

    def drop(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.part, ignore_errors=True)


class FileListWriter:
    """Nothing but a table of the files, below `raw`: they are decoded when they are wanted."""

    size = 0  # bytes of disk

    def __init__(self, path: Path, shape: tuple[int, ...], files: list[Path], raw: Path):
        self.path, self.shape, self.files, self.raw = path, shape, files, raw

    def begin(self) -> None:
        """Nothing to make."""

    def go_on(self) -> bool:
        """What the journal says of a file is all there is."""
        return True

    def take(self, i: int, pixels: np.ndarray) -> None:
        """Only looked at: it can be read."""

    def put(self, i: int, taken: None) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def holds(self, i: int, note: dict[str, Any]) -> bool:
        """Whatever the file's size and time say."""
        return True

    def finish(self, notes: list[dict[str, Any]]) -> None:
        """Write the table."""
        names = [path.relative_to(self.raw).as_posix() for path in self.files]
        write_parquet(self.path, pd.DataFrame({"file": names, "channels": np.uint8(self.shape[3])}))

    def drop(self) -> None:
        """Nothing is there."""
