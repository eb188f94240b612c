"""What may not go to Kaggle: secrets, hidden files, caches, links; and more or larger files than it takes.

The client uploads hidden files without a word (a stray `.env` too) and leaves folders out without one.
"""

from __future__ import annotations

import fnmatch
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from src.config import UserError

TOP_LEVEL = 50  # files and folders at the top of a dataset
TOTAL = 200 * 2**30  # bytes, of a dataset and of all private ones together
NAME = 100  # characters of a file name; longer ones have been cut
LOOK_INTO = 8 * 2**20  # bytes; keys hide in text, and no text of ours is larger

KEY_FILES = (".env", "*.env", ".netrc", "_netrc", "kaggle.json", "access_token*", "credentials.json")
KEY_FILES += ("id_rsa*", "id_ed25519*", "*.pem", "*.p12", "*.key")
KEYS = {
    "a Kaggle token": rb"\bKGAT_[0-9a-f]{32}",
    "a Kaggle key": rb"(?:KAGGLE_(?:KEY|API_TOKEN)\W{1,8}|\"key\"\s*:\s*\")[0-9a-zA-Z_]{32,}",
    "a wandb key": rb"WANDB_API_KEY\W{1,8}[0-9a-zA-Z_]{40,}|\bwandb_v\d_[0-9a-zA-Z_]{20,}",
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}",
    "a GitHub token": rb"\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_[A-Za-z0-9_]{40,}",
    "an AWS key": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google key": rb"\bAIza[0-9A-Za-z_-]{35}\b",
    "a Slack token": rb"\bxox[abprs]-[0-9A-Za-z-]{20,}",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
CACHES = ("__pycache__", "*.pyc", "*.tmp", "*.partial", "Thumbs.db")


def check_folder(folder: Path) -> tuple[str, ...]:
    """Raise `UserError`, naming the file, unless the folder may go to Kaggle as a dataset; give the names
    that its top travels under: a folder as `<name>.zip`."""
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
        if len(path.name) > NAME:
            raise UserError(f"{path}: its name has {len(path.name)} characters, at most {NAME} are safe")
        total += path.stat().st_size
    if total > TOTAL:
        raise UserError(f"{folder}: {total / 2**30:.0f} GiB, Kaggle takes {TOTAL / 2**30:.0f} in a dataset")
    empty = [path.name for path in top if path.is_dir() and not any(path.iterdir())]
    if empty:
        raise UserError(f"{folder / empty[0]}: is empty; remove it, Kaggle keeps no empty folder")
    return tuple(f"{path.name}.zip" if path.is_dir() else path.name for path in top)


def refuse_secrets(folder: Path) -> None:
    """Raise `UserError` naming the first hidden file, cache, link or secret below the folder, archives
    included."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise UserError(f"{path}: is a link; copy what it means")
        _check_name(path, PurePosixPath(path.relative_to(folder).as_posix()))
        if path.is_file():
            for name, content in _texts(path):
                _check_content(name, content)


def _texts(path: Path) -> Iterator[tuple[str, bytes]]:
    """The content of a file, or of every file in it where it is an archive, by a name for people."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as opened:
            for info in opened.infolist():
                name = f"{path}, in it {info.filename}"
                _check_name(name, PurePosixPath(info.filename))
                if not info.is_dir() and info.file_size <= LOOK_INTO:
                    yield name, opened.read(info)
    elif path.stat().st_size <= LOOK_INTO:
        yield str(path), path.read_bytes()


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
    for what, pattern in KEYS.items():
        if re.search(pattern, content):
            raise UserError(f"{shown}: holds {what}; take it out, and make a new one where it ever left home")
