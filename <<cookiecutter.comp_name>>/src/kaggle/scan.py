"""Upload checks: refuse secrets, hidden files, caches and links, and whatever exceeds Kaggle's limits.

The Kaggle client uploads hidden files (even a stray `.env`) and skips folders, both without a warning.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from src.config import UserError
from src.kaggle.secrets import find_secret

TOP_LEVEL = 50  # files and folders at the top level of a dataset
TOTAL = 200 * 2**30  # bytes: the limit of one dataset and of all private datasets together
_NAME = 100  # characters of a file name; longer names have been truncated
PIECE, OVERLAP = 8 * 2**20, 4096  # bytes of a file that are scanned at a time, and their overlap

KEY_FILES = (".env", "*.env", ".netrc", "_netrc", "kaggle.json", "access_token*", "credentials.json")
KEY_FILES += ("id_rsa*", "id_ed25519*", "*.pem", "*.p12", "*.key")
CACHES = ("__pycache__", "*.pyc", "*.tmp", "*.partial", "Thumbs.db")


def check_folder(folder: Path) -> tuple[str, ...]:
    """Check that a folder may be uploaded as a dataset; return its top-level names as they are uploaded.

    A folder is uploaded as `<name>.zip`. Raises `UserError` naming the first file that is not allowed.
    """
    refuse_secrets(folder)
    top = sorted(path for path in folder.iterdir() if path.name != "dataset-metadata.json")
    if not top:
        raise UserError(f"{folder}: there is nothing in it to send")
    if len(top) > TOP_LEVEL:
        raise UserError(
            f"{folder}: {len(top)} files and folders at its top, Kaggle takes {TOP_LEVEL}: "
            f"put some into a folder, such as {top[-1].name}"
        )
    clash = [path.name for path in top if path.is_dir() and (folder / f"{path.name}.zip").exists()]
    if clash:
        raise UserError(f"{folder / clash[0]}: a folder travels as {clash[0]}.zip, and there is such a file")
    total = 0
    for path in (path for path in folder.rglob("*") if path.is_file()):
        if len(path.name) > _NAME:
            raise UserError(f"{path}: its name has {len(path.name)} characters, at most {_NAME} are safe")
        total += path.stat().st_size
    if total > TOTAL:
        raise UserError(f"{folder}: {total / 2**30:.0f} GiB, Kaggle takes {TOTAL / 2**30:.0f} in a dataset")
    empty = [path.name for path in top if path.is_dir() and not any(path.iterdir())]
    if empty:
        raise UserError(f"{folder / empty[0]}: is empty; remove it, Kaggle keeps no empty folder")
    return tuple(f"{path.name}.zip" if path.is_dir() else path.name for path in top)


def refuse_secrets(folder: Path) -> None:
    """Raise `UserError` naming the first hidden file, cache, link or secret below the folder; archives are
    searched too."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise UserError(f"{path}: is a link; copy what it means")
        _check_name(path, PurePosixPath(path.relative_to(folder).as_posix()))
        if path.is_file():
            for name, content in _texts(path):
                _check_content(name, content)


def refuse_secret(name: str, text: str) -> None:
    """Raise `UserError` if a text that is uploaded under `name`, such as a kernel's script, holds a
    secret."""
    _check_content(name, text.encode("utf-8"))


def refuse_secret_settings(settings: dict[str, Any], prefix: str = "") -> None:
    """Raise `UserError` naming the first config key that holds a secret, since the config is part of the
    kernel."""
    for key, value in settings.items():
        if isinstance(value, dict):
            refuse_secret_settings(value, f"{prefix}{key}.")
        else:
            _check_content(f"the config's {prefix}{key}", json.dumps({key: value}).encode("utf-8"))


def copy_code(code: Path, to: Path) -> None:
    """Copy a folder of the project's own code without hidden files and caches. Raises `UserError` for a link,
    whose target may lie outside the project without being noticed."""
    for path in [code, *sorted(code.rglob("*"))]:
        hidden = any(part.startswith(".") for part in path.relative_to(code).parts)
        if path.is_symlink() and not hidden:
            raise UserError(f"{path}: is a link to {os.readlink(path)}; a copy of that must take its place")
    shutil.copytree(code, to, ignore=shutil.ignore_patterns(*CACHES, ".*"))


def _texts(path: Path) -> Iterator[tuple[str, bytes]]:
    """The content of a file in pieces, each with a readable name. For a zip archive, the content of each file
    in it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as opened:
            for info in opened.infolist():
                name = f"{path}, in it {info.filename}"
                _check_name(name, PurePosixPath(info.filename))
                if not info.is_dir():
                    with opened.open(info) as handle:
                        yield from ((name, piece) for piece in _pieces(handle))
        return
    with open(path, "rb") as handle:
        yield from ((str(path), piece) for piece in _pieces(handle))


def _pieces(handle: IO[bytes]) -> Iterator[bytes]:
    """A text file in overlapping pieces; of a binary file only the first piece, since secrets occur in
    text."""
    piece = handle.read(PIECE)
    yield piece
    binary = b"\0" in piece[:8192]
    while not binary and (more := handle.read(PIECE)):
        piece = piece[-OVERLAP:] + more
        yield piece


def _check_name(shown: object, path: PurePosixPath) -> None:
    if any(fnmatch.fnmatch(path.name, pattern) for pattern in KEY_FILES):
        raise UserError(f"{shown}: looks like a key or password file; it must not go to Kaggle")
    if any(part.startswith(".") for part in path.parts):
        raise UserError(
            f"{shown}: a hidden file; remove it, Kaggle would show it to whoever sees the dataset"
        )
    if any(fnmatch.fnmatch(part, pattern) for part in path.parts for pattern in CACHES):
        raise UserError(f"{shown}: a cache or a half-written file; remove it")


def _check_content(shown: str, content: bytes) -> None:
    found = find_secret(content)
    if found is not None:
        what, line = found
        where = f", line {line}" if line > 1 else ""
        raise UserError(
            f"{shown}{where}: holds {what}; take it out (a kernel reads such from Kaggle's Secrets), and "
            f"make a new one where it ever left home"
        )
