"""Pack many image files into one store on all CPU cores; an interrupted run resumes where it stopped.

Beside the store, which is written as `.<name>.part`, a journal has one line per finished image: size and
modification time of its file, and a checksum of the written pixels. On resume an image is skipped only if all
of these still match.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from src.artifacts import writing
from src.config import Data, UserError
from src.data.damage import Listener, damage_in, listening
from src.data.decode import Decoded, decode
from src.data.store_writers import ArrayWriter, FileListWriter, ShardWriter
from src.machine import cpu_count, memory_available
from src.owncode import preprocessing
from src.progress import Progress

_FORMAT = 2  # version of the journal format; a journal of another version is discarded
SETTINGS = {"fit", "max_value", "squeeze", "damaged"}  # keys of data that change pixels, besides the size
DAMAGED = ", damaged"  # appended to the mode of a damaged file that was kept
_SHOWN = 12  # file names shown in a message
Store = ArrayWriter | ShardWriter | FileListWriter


def pack_images(
    path: Path,
    files: list[Path],
    shape: tuple[int, ...],
    data: Data,
    title: str,
    refuse: Callable[[list[tuple[Path, str]]], None],
    raw: Path | None = None,
) -> list[Decoded]:
    """Decode files into a store of `shape` (N, S, S, C) at `path`, in the format of `data.storage`; returns
    the metadata of each image, without pixels. `refuse` raises a `UserError` for the list of broken files
    with reasons; an existing store at `path` then stays. `raw` is the folder with Kaggle's files."""
    cv2.setNumThreads(0)  # parallel over images; threads within one image would only compete
    store = store_of(path, files, shape, data, raw)
    report_size(path, title, len(files), store.size)
    work = PartialStore(path, files, shape, data, store)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        known, notes = work.begin()
        todo = [i for i in range(len(files)) if i not in known]
        with (
            listening() as listener,
            Progress(title, len(todo)) as progress,
            ThreadPoolExecutor(cpu_count()) as pool,
        ):
            reader = Reader(store, files, data, listener)
            if known:
                progress.say(f"{title}: goes on with {len(todo):,} files; {len(known):,} were packed before")
            # line-buffered: a killed process loses no lines
            with open(work.journal, "a", buffering=1, encoding="utf-8") as journal:
                for i, done in reader.each(todo, pool):
                    progress.step()
                    if done is not None:
                        known[i], notes[i] = done[0], store.put(i, done[1])
                        journal.write(json.dumps(work.line(i, known[i], notes[i])) + "\n")
        try:
            if reader.broken:
                refuse(reader.broken)
            in_order = [known[i] for i in range(len(files))]
            _check_depth(files, in_order, data)
        except UserError:
            work.drop()
            raise
        store.finish([notes[i] for i in range(len(files))])
        work.journal.unlink()
    kept = [file.name for file, one in zip(files, in_order, strict=True) if one.mode.endswith(DAMAGED)]
    if kept:
        print(
            f"{title}: {len(kept):,} damaged, kept as they decode (data.damaged=keep): {names_in_short(kept)}"
        )
    return in_order


def store_of(path: Path, files: list[Path], shape: tuple[int, ...], data: Data, raw: Path | None) -> Store:
    """The store writer for `data.storage`, not opened yet."""
    if data.storage == "files":
        return FileListWriter(path, shape, files, raw)
    return (ShardWriter if data.storage == "shards" else ArrayWriter)(path, shape)


class Reader:
    """Decodes files into a store in several threads; `broken` lists the files that fail, with the reason."""

    def __init__(self, store: Store, files: list[Path], data: Data, listener: Listener):
        self.store, self.files, self.data, self.listener = store, files, data, listener
        self.broken: list[tuple[Path, str]] = []
        # images during whose decoding libjpeg printed a message, perhaps about another image
        self.doubtful: set[int] = set()

    def each(self, todo: list[int], pool: ThreadPoolExecutor) -> Iterator[tuple[int, tuple | None]]:
        """Iterate over (image number, (metadata, store entry)); None instead of the pair for a broken
        image."""
        for i, done in zip(todo, pool.map(self.read, todo), strict=True):
            if i not in self.doubtful:
                yield i, done
        for i in sorted(self.doubtful):
            yield i, self.read_alone(i)

    def read(self, i: int) -> tuple[Decoded, Any] | None:
        """Decode an image in parallel with others."""
        before = self.listener.heard()
        try:
            done = self._decode(i)
        except UserError as error:
            self.broken.append((self.files[i], str(error)))
            return None
        if self.listener.heard() != before:
            self.doubtful.add(i)
        return done if i not in self.doubtful else None

    def read_alone(self, i: int) -> tuple[Decoded, Any] | None:
        """Decode a doubtful image once more, while no other one is decoded."""
        (decoded, taken), printed = self.listener.alone(partial(self._decode, i))
        why = damage_in(printed, self.files[i].read_bytes())
        if why is None:
            return decoded, taken
        if self.data.damaged == "keep":
            return replace(decoded, mode=f"{decoded.mode}{DAMAGED}"), taken
        self.broken.append((self.files[i], why))
        return None

    def _decode(self, i: int) -> tuple[Decoded, Any]:
        decoded = decode(self.files[i], self.data)
        if decoded.pixels.shape[2] != self.store.shape[3]:
            count = decoded.pixels.shape[2]
            raise UserError(f"it has {count} channel(s), {self.files[0].name} has {self.store.shape[3]}")
        return replace(decoded, pixels=None), self.store.take(i, decoded.pixels)


def names_in_short(names: list[str]) -> str:
    """File names joined for a message, shortened after a few."""
    return ", ".join(names[:_SHOWN]) + (f", … ({len(names):,} in all)" if len(names) > _SHOWN else "")


def refusal(broken: list[tuple[Path, str]], out: str) -> tuple[Path, str]:
    """The first broken file and a message with the reason, the other files and what to do: fetch it again, or
    take `out`."""
    path, why = min(broken)
    names = [file.name for file, _ in sorted(broken)]
    others = f" ({len(broken):,} such files in all: {names_in_short(names)})" if len(broken) > 1 else ""
    keep = any("damaged" in why for _, why in broken)
    cure = f"; fetch it again, or take {out}" + ("; data.damaged=keep keeps damaged JPEGs" if keep else "")
    return path, why + others + cure


@dataclass(frozen=True)
class PartialStore:
    """A partly written store and its journal."""

    path: Path
    files: list[Path]
    shape: tuple[int, ...]
    data: Data
    store: Store

    @property
    def journal(self) -> Path:
        return self.path.with_name(f".{self.path.name}.journal")

    def head(self) -> dict[str, Any]:
        """The journal's first line: the settings on which all other lines depend."""
        settings = self.data.model_dump(mode="json", include=SETTINGS) | {"own": preprocessing(self.data)}
        return {"format": _FORMAT, "shape": list(self.shape), "settings": settings}

    def begin(self) -> tuple[dict[int, Decoded], dict[int, dict[str, Any]]]:
        """Open the store. Returns the metadata of the images it already holds, and the store's entries for
        them."""
        done = list(self._done()) if self.journal.exists() and self.store.go_on() else []
        if not done:
            self.journal.write_text(json.dumps(self.head()) + "\n", encoding="utf-8")
            self.store.begin()
        return {i: known for i, known, _ in done}, {i: note for i, _, note in done}

    def _done(self) -> Iterator[tuple[int, Decoded, dict[str, Any]]]:
        """The images of the journal whose file and pixels are unchanged."""
        lines = self.journal.read_text(encoding="utf-8", errors="replace").splitlines()
        if not lines or _parsed(lines[0]) != self.head():
            return
        place = {str(file): i for i, file in enumerate(self.files)}
        for line in filter(None, map(_parsed, lines[1:])):
            try:
                i = place.get(line["file"])
                if i is None or line["at"] != i or line["stat"] != _stat(self.files[i]):
                    continue
                known = line["known"] | {"thumbnail": base64.b64decode(line["known"]["thumbnail"])}
                found = Decoded(pixels=None, **known)
                holds = self.store.holds(i, line["note"])
            except (KeyError, TypeError, ValueError):  # a damaged line: its image is packed again
                continue
            if holds:
                yield i, found, line["note"]

    def line(self, i: int, decoded: Decoded, note: dict[str, Any]) -> dict[str, Any]:
        """The journal line of an image."""
        known = {key: value for key, value in asdict(decoded).items() if key != "pixels"}
        known["thumbnail"] = base64.b64encode(decoded.thumbnail).decode()
        file = self.files[i]
        return {"file": str(file), "at": i, "stat": _stat(file), "note": note, "known": known}

    def drop(self) -> None:
        """Delete the partial store and the journal."""
        self.store.drop()
        self.journal.unlink(missing_ok=True)


def _parsed(line: str) -> dict[str, Any] | None:
    """Parse a line of the journal; None if it is truncated or damaged."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _stat(file: Path) -> list[int] | None:
    """Size and modification time of a file, to detect that it was replaced."""
    try:
        found = file.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _check_depth(files: list[Path], known: list[Decoded], data: Data) -> None:
    """Raise `UserError` for 16-bit images that are all dark, because 12-bit values would come out almost
    black without `data.max_value`."""
    deep = [i for i, d in enumerate(known) if d.brightest > 255 or "16" in d.mode]
    if deep and data.max_value is None and data.squeeze is None:
        top = max(known[i].brightest for i in deep)
        if top < 65535 / 4:
            raise UserError(
                f"{files[deep[0]]}: a 16-bit image, but no such image is brighter than {top:.0f} of 65535; "
                f"set data.max_value (4095 for 12 bits) to say what white is"
            )


def report_size(path: Path, title: str, n: int, size: int) -> None:
    """Print the disk space and memory that a store of `size` bytes at `path` needs. Raises `UserError` if the
    disk is too small."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    free, memory = shutil.disk_usage(path.parent).free, memory_available()
    part = path.with_name(f".{path.name}.part")  # of an interrupted build
    inside = part.iterdir() if part.is_dir() else [part] if part.exists() else []
    there = sum(file.stat().st_blocks * 512 for file in inside)
    print(f"{title}: {n:,} files, {size / 2**20:,.0f} MiB on disk ({free / 2**20:,.0f} MiB free)")
    if size > free + there:
        raise UserError(
            f"{path.parent}: the image cache needs {size / 2**20:,.0f} MiB; free some disk, lower "
            f"data.image_size, or set data.storage to shards (a quarter of it) or files (nothing)"
        )
    if memory is not None and size > memory:
        print(
            f"{title}: that is more than the {memory / 2**20:,.0f} MiB of memory that are free, so every "
            f"epoch will read from disk; a lower data.image_size or data.storage=shards may be faster"
        )
