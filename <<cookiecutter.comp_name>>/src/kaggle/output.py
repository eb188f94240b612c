"""Final check of a submission.csv against the sample submission, compared as text, row by row.

Stage 06 and the kernel check values and ranges when they write the file. This check verifies that the file on
disk is the intended one: it is no HTML page, and it has the sample's columns and the sample's ids in the same
order.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from src.artifacts import read_json
from src.config import UserError

SUMMARY = "summary.json"  # the summary of a kernel's run, beside its submission.csv
_MANY = 0.5  # the share of rows with the prior above which the score says little about the models

NO_NUMBERS = ("", "nan", "inf", "-inf", "infinity", "-infinity")  # as csv, numpy and pandas write them


def check_table(path: Path, sample: Path, numbers: bool = False) -> int:
    """Check that a CSV has the sample's columns and its first column's values in order; return the row count.

    With `numbers`, an empty cell, NaN or infinity is an error in every cell where the sample holds a number.
    Raises `UserError` naming the first row that differs, or if the file is an HTML page.
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
    rows, seen = 0, set()
    for number, (row, expected) in enumerate(zip_longest(ours, theirs), 2):
        if row is None or expected is None:
            which, other = (path, sample) if row is None else (sample, path)
            raise UserError(
                f"{which}: ends before row {number}, {other} goes on; {path.name} must have its rows"
            )
        if row[0] != expected[0]:
            again = " (an id that stands there before)" if row[0] in seen else ""
            raise UserError(f"{path}: row {number} is {row[0]!r}{again}, {sample} has {expected[0]!r}")
        seen.add(row[0])
        if len(row) != len(header):
            raise UserError(f"{path}: row {number} has {len(row)} cells, its header {len(header)}")
        if numbers:
            for name, cell, model in zip(header, row, expected, strict=True):
                if _finite(model) and cell.strip().lower() in NO_NUMBERS:
                    raise UserError(
                        f"{path}: row {number} holds {cell or 'nothing'} in `{name}`, where {sample} has a "
                        f"number"
                    )
        rows += 1
    return rows


def _finite(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def is_page(path: Path) -> bool:
    """Whether a file is an HTML or XML page. If Kaggle refuses a download, the client saves the error page
    under the file's name."""
    with open(path, "rb") as handle:
        start = handle.read(512).lstrip().lower()
    return start.startswith((b"<!doctype", b"<html", b"<?xml", b"<error"))


def _rows(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(2**30)  # a run-length encoded mask is one long cell
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            yield from (row for row in csv.reader(handle) if row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no CSV in UTF-8 ({error})") from None


def rows_on_prior(output: Path, log: str) -> dict[str, Any] | None:
    """Count the rows of a kernel's submission that hold the prior instead of a prediction.

    Returns `rows` (with the prior), `of` (all rows) and `why` (the reasons), or None if no row holds the
    prior. The numbers come from the run's summary.json, else from its log.
    """
    try:
        summary = read_json(output / SUMMARY)
        rows, of = sum(summary["prior"].values()), int(summary["rows"])
        why = [f"{count:,} {reason}" for reason, count in summary["prior"].items()]
        why += [summary["fallback"]] if summary.get("fallback") else []
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        found = re.search(r"^([\d,]+) of ([\d,]+) images were missing or broken", log, re.MULTILINE)
        rows, of = (int(number.replace(",", "")) for number in found.groups()) if found else (0, 0)
        why = ["images missing or broken"]
    return {"rows": rows, "of": of, "why": ", ".join(why)} if rows else None


def said_of_prior(found: dict[str, Any] | None) -> str | None:
    """The warning for a submission in which most rows hold the prior; None for any other."""
    if not found or found["rows"] <= _MANY * found["of"]:
        return None
    return f"{found['rows']:,} of {found['of']:,} rows of its run hold the prior ({found['why']})"
