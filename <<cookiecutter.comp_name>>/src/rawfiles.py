"""The raw Kaggle files: tables and image folders below `data.raw`, and digests that detect changes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from src.config import Config, UserError


def raw_tables(config: Config) -> dict[str, Path]:
    """Paths of Kaggle's tables by role: train, test (if there is one), sample.

    Raises `UserError` if a table does not exist.
    """
    raw = config.root / config.data.raw
    tables = {"train": raw / config.data.train_csv, "test": None, "sample": raw / config.data.sample_csv}
    if config.data.test_csv is not None:
        tables["test"] = raw / config.data.test_csv
    tables = {role: path for role, path in tables.items() if path is not None}
    for role, path in tables.items():
        if not path.is_file():
            raise UserError(
                f"{path}: the {role} table is not there; put Kaggle's files in {raw} or set data.{role}_csv"
            )
    return tables


def image_folders(config: Config) -> dict[str, list[Path]]:
    """The folders of the images by role: train, test, and masks if the train masks are image files.

    Raises `UserError` if a folder does not exist.
    """
    data = config.data
    named = {
        "train_images": data.train_images,
        "test_images": data.test_images,
        "train_masks": data.train_masks,
    }
    folders: dict[str, list[Path]] = {}
    for key, names in named.items():
        role = "masks" if key == "train_masks" else key.removesuffix("_images")
        for name in [] if names is None else [names] if isinstance(names, str) else names:
            path = config.root / data.raw / name
            hidden = key == "test_images" and config.kaggle.code_competition  # zips hold no empty folder
            if not path.is_dir() and not hidden:
                what = "train masks" if role == "masks" else f"{role} images"
                raise UserError(f"{path}: the folder of {what} is not there; set data.{key}")
            folders.setdefault(role, []).append(path)
    return folders


def external_folders(config: Config) -> dict[str, Path]:
    """Folders of external unlabelled images, which no table lists, by their names in `pseudo.external`.

    Raises `UserError` if a folder does not exist.
    """
    named = config.pseudo.external
    names = () if named is None else (named,) if isinstance(named, str) else named
    folders = {name: config.root / config.data.raw / name for name in names}
    for path in folders.values():
        if not path.is_dir():
            raise UserError(f"{path}: the folder of external images is not there; set pseudo.external")
    return folders


@cache  # no stage writes below the raw folder: list it once per process
def listing(folder: Path) -> str:
    """A digest of a folder's file names, sizes and times: cheap, and it changes when an image does."""
    whole = hashlib.sha256()
    entries: list[tuple[str, int, int]] = []
    for base, _, names in os.walk(folder):
        for name in names:
            status = _status(os.path.join(base, name))
            entries.append(
                (os.path.relpath(os.path.join(base, name), folder), status.st_size, status.st_mtime_ns)
            )
    for entry in sorted(entries):
        whole.update(json.dumps(entry).encode())
    return whole.hexdigest()[:16]


def _status(path: str) -> os.stat_result:
    """The file's status, or that of a broken link itself: whatever reads the file reports it."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return os.lstat(path)


def line_of(path: Path, row: int) -> int:
    """The line (counted from 1, as in an editor) of a CSV file on which row 0, 1, ... of its table begins.

    Blank lines, which are not rows of the table, and line breaks inside quotes are counted.
    """
    for number, (line, _) in enumerate(_lines(path), -1):  # the header is row -1
        if number == row:
            return line
    return row + 2


def column_names(path: Path) -> list[str]:
    """The column names of a CSV file exactly as in its header; pandas would rename duplicates."""
    return next(_lines(path), (0, []))[1]


def line_with(path: Path, column: str, value: str, row: int) -> int:
    """The line of the first row whose `column` is `value`, or begins with it (the id of an id-class pair).

    For a table that was made from several rows per id; `row` is the position of this id in it and gives the
    fallback, line `row + 2`.
    """
    lines = _lines(path)
    _, names = next(lines, (0, []))
    place = names.index(column) if column in names else len(names)
    there = [(line, cells[place]) for line, cells in lines if len(cells) > place]
    exact = (line for line, cell in there if cell == value)
    return next(exact, next((line for line, cell in there if cell.startswith(value)), row + 2))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file as pandas counts them, header first, each with its line number."""
    limit = csv.field_size_limit(sys.maxsize)  # a run-length mask in one cell may be long
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.reader(file)
            before = 0
            for cells in reader:
                if cells and (len(cells) > 1 or cells[0] == "" or cells[0].strip()):
                    yield before + 1, cells
                before = reader.line_num
    except (OSError, csv.Error):  # callers then fall back to the row number
        return
    finally:
        csv.field_size_limit(limit)
