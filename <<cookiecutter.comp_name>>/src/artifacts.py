"""Artefacts: files written atomically, stamped with what made them, and skipped while they are up to date.

A `Step` is one unit of work: its outputs, and the recipe (settings and input digests) they are made from. Its
stamp is a small JSON file written after the outputs, so a process killed at any moment leaves either the
earlier artefact or a complete new one.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import UserError
from src.reading import read_json as read_json
from src.stamps import content, read_stamp
from src.stamps import sha256 as sha256

if TYPE_CHECKING:
    import pandas as pd

_LEFT_OVER = 3600  # seconds; no writer pauses this long within one file


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Context manager: an OS error while writing `path` becomes a `UserError` that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if why := why_not_written(_number(error)):
            raise UserError(f"{path}: cannot be written, {why}") from error
        raise


def why_not_written(number: int | None) -> str | None:
    """Explain a system error number (errno) of a failed write and what to do; None for any other error."""
    return _WHY.get(number)


def _number(error: BaseException | None) -> int | None:
    """The system error number (errno) behind an exception, or None.

    torch raises a `RuntimeError` with the system's error as its context; the message of a safetensors error
    ends in "(os error 28)".
    """
    while error is not None:
        if isinstance(error, OSError):
            return error.errno
        if said := re.search(r"\(os error (\d+)\)", str(error)):
            return int(said[1])
        error = error.__context__
    return None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Context manager for an atomic write: yields a temporary path that replaces `path` on success.

    Raises `UserError` if the location cannot be written or the disk is full; `path` then stays as it was. If
    two processes write the same path, the last one wins.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_left_over(path)
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _drop_left_over(path: Path) -> None:
    """Remove temporary files of `path` that killed processes left behind: those not modified for an hour."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _LEFT_OVER:
                old.unlink()


_WHY = {
    errno.EACCES: "this user has no permission to write there; change the folder's owner or mode",
    errno.EPERM: "this user has no permission to write there; change the folder's owner or mode",
    errno.EROFS: "the disk is read-only; work in a folder that can be written",
    errno.ENOSPC: "the disk is full; free some space (`make clean` drops caches) and run the command again",
    errno.EDQUOT: "your quota is used up; free some space (`make clean` drops caches) and run it again",
    errno.EFBIG: "the disk takes no file so large (FAT ends at 4 GB; see `ulimit -f`); work on another one",
    errno.EEXIST: "a file stands where its folder should be; move that file away",
    errno.ENOTDIR: "a file stands where its folder should be; move that file away",
    errno.EISDIR: "a folder stands where the file should be; move that folder away",
    errno.ENAMETOOLONG: "its name is too long for this disk",
}


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically. Raises `UserError` for NaN and infinity, which other readers refuse."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    except ValueError:
        name, number = next(_not_finite(value), (None, None))
        if name is None:
            raise
        raise UserError(
            f"{path}: `{name}` would be {number}, which is no finite number and cannot be stored; look for "
            f"such values in the predictions or targets that it comes from"
        ) from None
    write_text(path, text + "\n")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV without its index, atomically."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet without its index, atomically; equal tables give equal bytes.

    Pages carry checksums, so a flipped bit is detected when they are read.
    """
    with atomic(path) as temporary:
        table.to_parquet(
            temporary, index=False, engine="pyarrow", compression="zstd", write_page_checksum=True
        )


def write_yaml(path: Path, value: Any) -> None:
    """Write plain values as YAML atomically, keys in their given order."""
    import yaml

    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def digest(path: Path) -> str:
    """Content hash of a file, taken from the stamp of the step that wrote it if size and time still agree."""
    status = path.stat()
    for stamp in path.parent.glob("*.stamp.json"):
        known = (read_stamp(stamp) or {"outputs": {}})["outputs"].get(path.name)
        if known and (known["size"], known["mtime_ns"]) == (status.st_size, status.st_mtime_ns):
            return known["digest"]
    return content(path)


@cache
def source_digest() -> str:
    """One hash over the project's Python code; stamps keep it to tell whether the code has changed since."""
    folder = Path(__file__).parent
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        whole.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()[:16]


@dataclass(frozen=True)
class Step:
    """One unit of work: `outputs` (files of `folder`) made from `recipe` (JSON values).

    `title` is for messages.
    """

    title: str
    folder: Path
    outputs: tuple[str, ...]
    recipe: dict[str, Any]
    stamp_name: str = "step"
    replaces: bool = field(default=False)  # the last replaced folder is kept as `<folder>.previous`

    @property
    def stamp(self) -> Path:
        """The path of the stamp file."""
        return self.folder / f"{self.stamp_name}.stamp.json"

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that identify the recipe.

        A null value counts as absent, so a setting that a later version adds and leaves off makes nothing
        stale.
        """
        leaves = {k: v for k, v in _plain_leaves(self.recipe).items() if v is not None}
        text = json.dumps(leaves, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def read_stamp(self) -> dict | None:
        """The stamp as last written, or None."""
        return read_stamp(self.stamp)

    def fresh(self) -> bool:
        """Whether the outputs on disk were made from this recipe and are unchanged."""
        stamp = self.read_stamp()
        return stamp is not None and stamp["fingerprint"] == self.fingerprint and self._untouched(stamp)

    def _untouched(self, stamp: dict) -> bool:
        for name in self.outputs:
            path, known = self.folder / name, stamp["outputs"].get(name)
            if known is None or not path.exists() or path.stat().st_size != known["size"]:
                return False
            if path.stat().st_mtime_ns != known["mtime_ns"] and digest(path) != known["digest"]:
                return False
        return True

    def why(self) -> list[str]:
        """The differences from the stamp's recipe, as `train.lr 0.0003 -> 0.001`; empty for a first run."""
        stamp = self.read_stamp()
        if stamp is None:
            return []
        before, now = _plain_leaves(stamp["recipe"]), _plain_leaves(self.recipe)
        changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
        if not changed:
            return ["an output is missing or was changed by hand"]
        return [f"{k} {_short(before.get(k))} -> {_short(now.get(k))}" for k in changed]

    def begin(self) -> bool:
        """Prepare to make the outputs; returns False if they are already up to date.

        With `replaces`, the finished folder is moved to `<folder>.previous`: an override given by mistake
        does not cost a night of training, and returning to the earlier settings restores that folder.
        """
        if self.replaces:
            with writing(self.folder):
                self._finish_swap()
        if self.fresh():
            return False
        if self.replaces and (self.stamp.exists() or self._kept_aside()):
            with writing(self.folder):
                self._swap()
        return not self.fresh()

    def _kept_aside(self) -> bool:
        """Whether `<folder>.previous` was made from this recipe."""
        kept = read_stamp(self._beside("previous") / self.stamp.name)
        return kept is not None and kept["fingerprint"] == self.fingerprint

    def _swap(self) -> None:
        """Move the folder to `.previous`; an earlier `.previous` made from this recipe takes its place."""
        previous, aside = self._beside("previous"), self._beside("swap")
        if self.folder.exists():
            os.replace(self.folder, aside)
        if self._kept_aside():
            os.replace(previous, self.folder)
        else:
            shutil.rmtree(previous, ignore_errors=True)
        if aside.exists():
            os.replace(aside, previous)

    def _finish_swap(self) -> None:
        """Complete a `_swap` that was killed: move the folder set aside to wherever one is missing."""
        previous, aside = self._beside("previous"), self._beside("swap")
        if aside.exists() and not self.folder.exists():
            os.replace(aside, self.folder)
        elif aside.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(aside, previous)

    def _beside(self, what: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{what}")

    def done(self) -> None:
        """Write the stamp, which makes the outputs valid."""
        outputs = {}
        for name in self.outputs:
            path = self.folder / name
            status = path.stat()
            known = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "digest": content(path)}
            outputs[name] = known
        stamp = {"title": self.title, "fingerprint": self.fingerprint, "source": source_digest()}
        write_json(
            self.stamp,
            {**stamp, "outputs": outputs, "recipe": json.loads(json.dumps(self.recipe, default=str))},
        )

    def drop(self) -> None:
        """Invalidate the outputs of this recipe, so that the step runs again.

        With `replaces`, a folder of another recipe keeps its stamp, and `begin` sets it aside.
        """
        for folder in (self.folder, self._beside("previous")) if self.replaces else (self.folder,):
            stamp = folder / self.stamp.name
            made = read_stamp(stamp)
            if not self.replaces or made is None or made["fingerprint"] == self.fingerprint:
                with writing(stamp):
                    stamp.unlink(missing_ok=True)

    def up_to_date_line(self) -> str:
        """The line to print if there is nothing to do; it says if the code has changed since."""
        stamp = self.read_stamp() or {}
        changed = (
            ""
            if stamp.get("source") == source_digest()
            else " (src/ has changed since; --force makes it again)"
        )
        return f"{self.title}: up to date{changed}"


def _plain_leaves(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe's values by dotted key, converted as JSON stores them."""
    return _leaves(json.loads(json.dumps(recipe, default=str)))


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {k: v for key, inner in value.items() for k, v in _leaves(inner, f"{prefix}{key}.").items()}


def _not_finite(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the dotted key and value of every non-finite number in a JSON value."""
    if isinstance(value, float) and not isfinite(value):
        yield name, value
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from _not_finite(inner, f"{name}.{key}" if name else str(key))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:8] + "…"
