"""`manifest.json`: the hash of every file in a folder that goes to Kaggle, and one hash of them all.

The bundle has one, and so has the code to train with. The kernel checks it on arrival; here it tells whether
a rehearsal, an upload and a push speak of the same files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from src.artifacts import read_json, sha256, write_json
from src.config import UserError

_NAME = "manifest.json"
NOT_CARRIED = {_NAME, "dataset-metadata.json"}  # the client keeps the latter to itself


def write_manifest(folder: Path, **more: Any) -> dict[str, Any]:
    """Hash every file of the folder, write manifest.json into it and give it; `more` is kept beside."""
    hashes = {name: sha256(folder / name) for name in sorted(files_in_bundle(folder))}
    manifest = {**more, "sha256": hashes, "bundle_hash": bundle_hash(hashes)}
    write_json(folder / _NAME, manifest)
    return manifest


def read_manifest(folder: Path, made_by: str) -> dict[str, Any]:
    """The manifest of a folder whose files are still those it lists; `made_by` is the command that makes it.

    Raises `UserError` naming the first file that is missing, added or changed.
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
    """One hash, in hexadecimal, of all names and contents."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def files_in_bundle(folder: Path) -> set[str]:
    """Every file below the folder that is carried, by its path with forward slashes."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return set(paths) - NOT_CARRIED
