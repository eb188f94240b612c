"""Resumable download of the competition's archive with the Kaggle client.

The client itself resumes after a lost connection, but if Kaggle then answers with an error page, it
overwrites the partial download with that page. So the client is terminated when it loses the connection,
before it retries, and is started again: a fresh call never mistakes an error page for the file, and resumes
after the bytes that are already there.
"""

from __future__ import annotations

import os
import re
import time
import zipfile
from pathlib import Path

from src.artifacts import read_json, writing
from src.config import UserError
from src.kaggle import waiting
from src.kaggle.client import Busy, Refused, about_competition, call, failure
from src.kaggle.unpack import check_free_space

_TRIES = 5  # consecutive calls that download nothing
# What the client prints before it waits and retries.
INTERRUPTED = re.compile(r"^(?:Connection error|Rate limited)\b.*", re.MULTILINE)


def fetch(slug: str, folder: Path, raw: Path) -> Path:
    """Download the competition's complete archive into `folder`. An interrupted download resumes.

    Raises `UserError` if the archive is not available, or if the disk has no space for it and for its files
    in `raw`.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{slug}.zip"
    drop_page(archive)
    print(f"{slug}: downloading; stop it when you like, the same command goes on", flush=True)
    pause, failed = waiting.FIRST, 0
    while True:
        size = size_of(archive)
        try:
            ask(slug, archive, raw)
            break
        except (Busy, Refused) as error:
            if (isinstance(error, Refused) and error.status != 403) or not size_of(archive):
                raise
            # A partial download shows that the rules are accepted: a 403 means that the file's URL has
            # expired.
            pause, failed = (waiting.FIRST, 1) if size_of(archive) > size else (pause * 1.5, failed + 1)
            came = f"{size_of(archive) / 2**20:,.1f} MiB of {slug}.zip are here"
            if failed > _TRIES:
                raise Busy(f"{error}; {came}, and the same command goes on behind them") from None
            pause = max(min(pause, waiting.LONGEST), getattr(error, "after", None) or 0.0)
            print(f"{error}; {came}, going on in {pause:.0f} s", flush=True)
            time.sleep(pause)
    check_archive(archive, slug)
    return archive


def ask(slug: str, archive: Path, raw: Path) -> None:
    """Call the client once. It is terminated if it loses the connection or the disk is too small."""
    arguments = ("competitions", "download", slug, "-p", str(archive.parent))
    about, measured = about_competition(slug), False

    def look(printed: str) -> None:
        nonlocal measured
        if not measured and marker_of(archive).exists():  # the marker holds the archive's size
            measured = check_disk(archive, raw)
        if INTERRUPTED.search(printed):
            raise failure(printed, arguments, about)

    try:
        call(*arguments, about=about, watch=True, look=look)
    except BaseException:
        drop_page(archive)
        raise


def check_disk(archive: Path, raw: Path) -> bool:
    """Whether the archive's size is known. Raises `UserError` if there is no disk space for the rest of the
    archive or for its files, which are assumed to be at least as large as the archive."""
    try:
        size = int(read_json(marker_of(archive))["size"])
    except (UserError, ValueError, KeyError, TypeError):
        return False
    rest = size - size_of(archive)
    check_free_space(archive.parent, rest, f"downloading {archive.name}")
    place = next(p for p in (raw, *raw.parents) if p.exists())
    if os.stat(place).st_dev == os.stat(archive.parent).st_dev:
        files = max(0, size - bytes_in(raw))
        check_free_space(archive.parent, rest + files, f"{archive.name} with the files that are in it")
    return True


def check_archive(archive: Path, slug: str) -> None:
    """Raise `UserError` if the downloaded file is missing or is no zip archive."""
    folder = archive.parent
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


def drop_page(archive: Path) -> None:
    """Remove a partial download that does not start like a zip archive, such as a saved error page."""
    if size_of(archive):
        with open(archive, "rb") as handle:
            starts_well = handle.read(2) == b"PK"
        if not starts_well:
            archive.unlink()
            marker_of(archive).unlink(missing_ok=True)


def marker_of(archive: Path) -> Path:
    """The file in which the client records the name and size of the archive during the download."""
    return archive.with_name(f"{archive.name}.kaggle-partial")


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.is_file() else 0


def bytes_in(folder: Path) -> int:
    """Total size in bytes of all files below a folder; 0 if it does not exist."""
    return sum(
        os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(folder) for name in names
    )
