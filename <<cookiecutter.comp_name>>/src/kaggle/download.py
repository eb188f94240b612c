"""`make data`: download the competition's files into the raw folder (resumable, safely extracted, verified).

The archive lies in `data/download/` during the download and is removed once all its files are in place. A
list of its files stays there, so that the next call does nothing and files that were changed by hand are
detected.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from src.artifacts import read_json, write_json, writing
from src.config import Config
from src.kaggle.names import competition
from src.kaggle.receipts import now
from src.kaggle.transfer import fetch, marker_of
from src.kaggle.unpack import Unpacked, is_file, unpack
from src.reading import Unreadable

_SHOWN = 3  # number of file names that a message lists


def download(config: Config, force: bool = False) -> None:
    """Download the competition's files that are missing in `data.raw`. Only `force` replaces a file that was
    changed by hand."""
    slug, raw = competition(config), config.root / config.data.raw
    folder = config.root / "data" / "download"
    record, archive = folder / f"{slug}.json", folder / f"{slug}.zip"
    before = files_that_came(record)
    if before and not force and not archive.exists() and all((raw / name).is_file() for name in before):
        changed = [name for name, (size, _) in before.items() if (raw / name).stat().st_size != size]
        print(f"{raw}: up to date ({slug}); `make data ARGS=--force` looks for newer files on Kaggle")
        say_kept(raw, changed)
        return
    if force and not marker_of(archive).exists():  # a complete archive that is outdated or damaged
        archive.unlink(missing_ok=True)
    fetch(slug, folder, raw)
    unpacked = unpack(archive, raw, replace=force, came=before)
    withdraw(raw, folder / "withdrawn", before, unpacked, force)
    write_json(record, {"when": now(), "competition": slug, "files": unpacked.files})
    archive.unlink()
    total = sum(size for size, _ in unpacked.files.values())
    print(
        f"{raw}: {len(unpacked.files):,} file(s), {total / 2**20:,.1f} MiB, {unpacked.written:,} of them "
        f"written anew; next: `make sniff`"
    )
    say_kept(raw, unpacked.kept)


def files_that_came(record: Path) -> dict[str, tuple[int, int]]:
    """Size and CRC of every file of the last download by its path below the raw folder; empty if there is no
    list."""
    try:
        files = read_json(record, files=dict)["files"].items() if record.exists() else ()
        return {name: (int(size), int(crc)) for name, (size, crc) in files}
    except Unreadable as error:
        print(error)
    except (ValueError, TypeError):
        pass
    return {}


def withdraw(
    raw: Path, aside: Path, before: dict[str, tuple[int, int]], unpacked: Unpacked, force: bool
) -> None:
    """Move withdrawn files out of the raw folder: those of an earlier archive that the new one lacks.

    Without `force` a file that was changed by hand stays.
    """
    gone = [name for name in before if name not in unpacked.files and (raw / name).is_file()]
    moved = [name for name in gone if force or is_file(raw / name, *before[name])]
    for name in moved:
        with writing(aside / name):
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(raw / name, aside / name)
    if moved:
        print(f"{raw}: Kaggle has withdrawn {_in_short(moved)}; moved to {aside}")
    unpacked.kept.extend(sorted(set(gone) - set(moved)))
    for name, known in before.items():
        if name in unpacked.kept and name not in unpacked.files:
            unpacked.files[name] = known


def say_kept(raw: Path, names: list[str]) -> None:
    """Print the names of the files that differ from Kaggle's and were kept."""
    if names:
        print(
            f"{raw}: {_in_short(names)}: not as Kaggle has it, and kept (changed by hand?); "
            f"`make data ARGS=--force` puts Kaggle's in its place"
        )


def _in_short(names: list[str]) -> str:
    """The first few names of a list, with the number of the others."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
