"""`make data`: the competition's files from Kaggle into the raw folder, resumable, safely unpacked, checked.

The archive lies in `data/download/` while it comes in and is removed once all it holds is in place; a list of
what came stays there, so that the next call does nothing.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from src.artifacts import read_json, write_json
from src.config import Config, UserError
from src.kaggle.client import about_competition, call
from src.kaggle.names import competition
from src.kaggle.receipts import now
from src.kaggle.unpack import unpack


def download(config: Config, force: bool = False) -> None:
    """Bring the competition's files into `data.raw`, those that are not there yet."""
    slug, raw = competition(config), config.root / config.data.raw
    folder = config.root / "data" / "download"
    record = folder / f"{slug}.json"
    under_way = (folder / f"{slug}.zip").exists()
    if not force and not under_way and in_place(record, raw):
        print(f"{raw}: up to date ({slug}); `make data ARGS=--force` looks for newer files on Kaggle")
        return
    archive = fetch(slug, folder, force)
    unpacked = unpack(archive, raw)
    write_json(record, {"when": now(), "competition": slug, "files": unpacked.sizes})
    archive.unlink()
    sizes = unpacked.sizes
    print(
        f"{raw}: {len(sizes):,} file(s), {sum(sizes.values()) / 2**20:,.1f} MiB, {unpacked.written:,} of "
        f"them written anew; next: `make sniff`"
    )


def fetch(slug: str, folder: Path, force: bool = False) -> Path:
    """The competition's archive, whole. An interrupted download goes on where it was."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{slug}: downloading; stop it when you like, the same command goes on")
    arguments = ["competitions", "download", slug, "-p", str(folder), *(["--force"] if force else [])]
    call(*arguments, about=about_competition(slug), watch=True)
    archive = folder / f"{slug}.zip"
    if not archive.is_file():
        there = ", ".join(sorted(p.name for p in folder.glob(f"{slug}.*"))) or "nothing"
        raise UserError(
            f"{folder}: the kaggle client ended without an error and without {slug}.zip (there is {there}); "
            f"run `make data` again, or download the files by hand into the raw folder"
        )
    if not zipfile.is_zipfile(archive):
        archive.unlink()
        raise UserError(
            f"{archive}: what came is no zip archive (a page that asks for something?); it was removed: "
            f"open kaggle.com/competitions/{slug}/data in a browser, then run `make data` again"
        )
    return archive


def in_place(record: Path, raw: Path) -> bool:
    """Whether every file that came with the last download is still there at its size."""
    if not record.exists():
        return False
    try:
        files = read_json(record)["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all((raw / name).is_file() and (raw / name).stat().st_size == size for name, size in files)
