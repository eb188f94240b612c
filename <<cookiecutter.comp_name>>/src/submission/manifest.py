"""`manifest.json`: the hash of every file in a folder that is uploaded to Kaggle, and one hash over all of
them.

The bundle and the training code have one each. The kernel checks it on arrival. Locally it shows whether a
rehearsal, an upload and a push refer to the same files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from src.artifacts import read_json, sha256, write_json
from src.config import UserError

_NAME = "manifest.json"
NOT_CARRIED = {_NAME, "dataset-metadata.json"}  # Kaggle's client does not upload the latter


def write_manifest(folder: Path, **more: Any) -> dict[str, Any]:
    """Hash every file of the folder, write manifest.json into it and return the manifest, which also contains
    `more`."""
    hashes = {name: sha256(folder / name) for name in sorted(files_in_bundle(folder))}
    manifest = {**more, "sha256": hashes, "bundle_hash": bundle_hash(hashes)}
    write_json(folder / _NAME, manifest)
    return manifest


def read_manifest(folder: Path, made_by: str) -> dict[str, Any]:
    """The manifest of a folder, checked against its files; `made_by` is the command that creates the folder.

    Raises `UserError` that names the first missing, added or changed file.
    """
    try:
        manifest = read_json(folder / _NAME, sha256=dict, bundle_hash=str)
        hashes, whole = manifest["sha256"], manifest["bundle_hash"]
    except UserError:
        raise UserError(f"{folder}: there is no {_NAME} of ours; run `{made_by}` first") from None
    there = files_in_bundle(folder)
    differs = sorted(there ^ hashes.keys()) or [
        name for name in sorted(hashes) if sha256(folder / name) != hashes[name]
    ]
    if differs:
        raise UserError(
            f"{folder / differs[0]}: changed since the folder was made ({len(differs)} file(s)); "
            f"run `{made_by}` again"
        )
    if whole != bundle_hash(hashes):
        raise UserError(f"{folder / _NAME}: its bundle_hash is not that of its files; run `{made_by}` again")
    return manifest


def bundle_hash(hashes: dict[str, str]) -> str:
    """One hexadecimal hash over all file names and contents."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def files_in_bundle(folder: Path) -> set[str]:
    """Relative paths, with forward slashes, of all files below the folder that are uploaded."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return set(paths) - NOT_CARRIED
