"""Where Kaggle's files are: tables and image folders below `data.raw`, and what tells that they changed."""

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
    """Kaggle's tables by role: train, test (where there is one), sample."""
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
    """The folders of the train and test images, and of the train masks where they are files."""
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
            hidden = key == "test_images" and config.kaggle.code_competition  # a zip holds no empty folder
            if not path.is_dir() and not hidden:
                what = "train masks" if role == "masks" else f"{role} images"
                raise UserError(f"{path}: the folder of {what} is not there; set data.{key}")
            folders.setdefault(role, []).append(path)
    return folders


def external_folders(config: Config) -> dict[str, Path]:
    """The folders of unlabelled images that no table lists, by the name that `pseudo.external` gives them."""
    named = config.pseudo.external
    names = () if named is None else (named,) if isinstance(named, str) else named
    folders = {name: config.root / config.data.raw / name for name in names}
    for path in folders.values():
        if not path.is_dir():
            raise UserError(f"{path}: the folder of external images is not there; set pseudo.external")
    return folders


@cache  # nothing of ours writes below the raw folder, so one look a process is enough
def listing(folder: Path) -> str:
    """A digest of a folder's file names, sizes and times: cheap, and it moves when an image does."""
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
    """Of the file, or of the link itself where it leads nowhere: what reads it will say so."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return os.lstat(path)


def line_of(path: Path, row: int) -> int:
    """The line of a CSV file, counted from 1 as an editor does, on which row 0, 1, ... of its table begins:
    blank lines, which a table has not, and line breaks inside quotes count."""
    for number, (line, _) in enumerate(_lines(path), -1):  # the names of the columns are number -1
        if number == row:
            return line
    return row + 2


def column_names(path: Path) -> list[str]:
    """The names in the first line of a CSV file, as they stand there: pandas would rename the second of two
    that are the same."""
    return next(_lines(path), (0, []))[1]


def line_with(path: Path, column: str, value: str, row: int) -> int:
    """The line of the first row whose `column` is `value`, or begins so, as the id of a pair does: of a table
    that was made from several rows an id, in which this id has number `row`."""
    lines = _lines(path)
    _, names = next(lines, (0, []))
    place = names.index(column) if column in names else len(names)
    there = [(line, cells[place]) for line, cells in lines if len(cells) > place]
    exact = (line for line, cell in there if cell == value)
    return next(exact, next((line for line, cell in there if cell.startswith(value)), row + 2))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file as pandas takes them, the names of the columns first, and the line of each."""
    limit = csv.field_size_limit(sys.maxsize)  # a mask in one cell may be long
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.reader(file)
            before = 0
            for cells in reader:
                if cells and (len(cells) > 1 or cells[0] == "" or cells[0].strip()):
                    yield before + 1, cells
                before = reader.line_num
    except (OSError, csv.Error):  # it is told of a row all the same
        return
    finally:
        csv.field_size_limit(limit)
