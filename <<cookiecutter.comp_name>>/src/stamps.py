"""Reading of stamps: what a step's outputs were made from, and whether the outputs are unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.config import UserError
from src.reading import damaged, made_by, read_json

# A larger file (an image cache) is identified by size and time; its index, a small file, by content.
HASH_UP_TO = 256 * 2**20  # bytes


def sha256(path: Path) -> str:
    """Content hash of a file, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content(path: Path) -> str:
    """The digest that a stamp stores for a file: its SHA-256, or its size for a very large file."""
    size = path.stat().st_size
    return sha256(path) if size <= HASH_UP_TO else f"size:{size}"


def read_stamp(path: Path) -> dict[str, Any] | None:
    """Read the stamp of a step; None if there is none.

    A damaged stamp is set aside with a printed message, and its step runs again.
    """
    if not path.is_file():
        return None
    try:
        stamp = read_json(path, fingerprint=str, outputs=dict, recipe=dict)
        for known in stamp["outputs"].values():
            if not isinstance(known, dict) or not known.keys() >= {"size", "mtime_ns", "digest"}:
                raise damaged(path, "has no valid `outputs`")
    except UserError as error:
        print(error, flush=True)
        return None
    return stamp


def recipe_in(stamp: Path) -> dict[str, Any] | None:
    """The recipe in a stamp: what its outputs were made from; None if there is no stamp."""
    found = read_stamp(stamp)
    return None if found is None else found["recipe"]


def check_outputs(stamp: Path, names: Iterable[str] = ()) -> None:
    """Raise `UserError` if an output in the stamp is missing or has changed; `names` restricts the check."""
    for name, known in (read_stamp(stamp) or {"outputs": {}})["outputs"].items():
        path = stamp.with_name(name)
        if names and name not in names:
            continue
        if not path.is_file():
            raise UserError(f"{path}: is not there; {made_by(path)}")
        if content(path) == known["digest"]:
            continue
        if path.stat().st_mtime_ns == known["mtime_ns"]:  # not written since: the disk has damaged it
            raise damaged(path, "its content is no longer what was written")
        raise UserError(f"{path}: has been changed since it was written; {made_by(path)}")
