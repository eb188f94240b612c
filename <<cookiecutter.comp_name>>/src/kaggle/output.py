"""A submission.csv against the sample submission, read as text line by line: a last look before it is sent.

Stage 06 and the kernel check values and ranges when they write; this one asks whether the file that is here
is the one that was meant: no web page in its place, the sample's columns, its ids in its order.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from src.config import UserError


def check_table(path: Path, sample: Path) -> int:
    """The number of rows of a CSV with the columns and the first column's values of the sample, in its order.

    Raises `UserError` naming the first row that differs, or that what lies there is a web page.
    """
    if not path.is_file():
        raise UserError(f"{path}: is not there")
    if is_page(path):
        raise UserError(
            f"{path}: is a web page, not a table: Kaggle refused the file and its refusal was saved"
        )
    ours, theirs = _rows(path), _rows(sample)
    header, wanted = next(ours, []), next(theirs, [])
    if header != wanted:
        raise UserError(f"{path}: its columns are {header}, {sample} has {wanted}")
    rows = 0
    for number, (row, expected) in enumerate(zip_longest(ours, theirs), 2):
        if row is None or expected is None:
            which, other = (path, sample) if row is None else (sample, path)
            raise UserError(
                f"{which}: ends before row {number}, {other} goes on; {path.name} must have its rows"
            )
        if row[0] != expected[0]:
            raise UserError(f"{path}: row {number} is {row[0]!r}, {sample} has {expected[0]!r}")
        if len(row) != len(header):
            raise UserError(f"{path}: row {number} has {len(row)} cells, its header {len(header)}")
        rows += 1
    return rows


def is_page(path: Path) -> bool:
    """Whether a file is a web page: where Kaggle refuses one, the client saves the refusal under its name."""
    with open(path, "rb") as handle:
        start = handle.read(512).lstrip().lower()
    return start.startswith((b"<!doctype", b"<html", b"<?xml", b"<error"))


def _rows(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(2**30)  # a run-length mask is one long cell
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            yield from (row for row in csv.reader(handle) if row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no CSV in UTF-8 ({error})") from None
