"""Requested rows: mapping a mounted sample submission, whatever its columns, to the local submission format.

A hidden sample submission may name its id column differently, have extra columns, list an id twice or be
missing. None of this may prevent a kernel from writing a submission of the rows that are there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.config import UserError
from src.data.submission_form import SampleForm

TWICE, UNKNOWN = "duplicate id", "unknown class"  # reasons why a row gets no prediction


@dataclass(frozen=True)
class Asked:
    """The requested rows under the columns of the local sample, the meaning of each, and their original
    form."""

    sample: pd.DataFrame
    form: SampleForm
    path: Path  # of the sample, or of the table that replaced it
    found: pd.DataFrame  # the table as found, with all its columns
    names: dict[str, str]  # found column to local column
    refused: dict[str, np.ndarray]  # by reason, a mask (rows,) of the rows without a prediction

    @property
    def answered(self) -> np.ndarray:
        """Mask (rows,) of the rows whose image and class are known."""
        return ~np.any([np.zeros(len(self.sample), dtype=bool), *self.refused.values()], axis=0)

    def as_found(self, table: pd.DataFrame) -> pd.DataFrame:
        """Convert a submission from the local columns to the mounted sample's: its names, its order, and its
        extra columns with their values."""
        back = {home: found for found, home in self.names.items()}
        table = table.rename(columns=back)
        more = [column for column in self.found.columns if column not in table]
        table = table.assign(**{column: self.found[column].to_numpy() for column in more})
        order = [column for column in self.found.columns if column in table]
        return table[[*order, *(column for column in table if column not in order)]]


def asked_for(
    found: pd.DataFrame, path: Path, form: dict[str, Any], outputs: list[str], known: list[str] | None
) -> Asked:
    """Interpret the rows of a sample as found. `form` describes the local sample, `known` are the test
    table's ids."""
    names = same_columns(found, form["columns"], form["id_column"], known)
    sample = found.rename(columns=names).reset_index(drop=True)
    for column in form["columns"]:
        if column not in sample:
            print(f"{path.name}: has no column `{column}`; it is filled in all the same", flush=True)
            sample[column] = ""
    sample = sample[form["columns"]]
    images, classes, unknown = meanings(sample, form, outputs, known)
    keys = pd.DataFrame({"image": images, "class": classes or [""] * len(images)})
    refused = {TWICE: keys.duplicated(keep=False).to_numpy() & ~unknown, UNKNOWN: unknown}
    for reason, rows in refused.items():
        if rows.any():
            first = sample[form["id_column"]][rows].iloc[0]
            print(f"{path.name}: {int(rows.sum()):,} row(s), such as {first!r}: {reason}", flush=True)
    same = {key: form[key] for key in ("kind", "id_column", "separator", "most", "class_column")}
    read = SampleForm(
        value_columns=tuple(form["value_columns"]),
        images=tuple(images),
        classes=None if classes is None else tuple(classes),
        **same,
    )
    return Asked(sample, read, path, found.reset_index(drop=True), names, refused)


def meanings(
    sample: pd.DataFrame, form: dict[str, Any], outputs: list[str], known: list[str] | None
) -> tuple[list[str], list[str] | None, np.ndarray]:
    """The image of each row, its class if rows are image-class pairs, and a mask (n,) of rows with an unknown
    class."""
    ids = sample[form["id_column"]].tolist()
    unknown = np.zeros(len(ids), dtype=bool)
    if not form["pairs"]:
        return ids, None, unknown
    if form["class_column"] is not None:
        images, classes = ids, sample[form["class_column"]].tolist()
    else:
        whole = {Path(name).stem: name for name in known or ()} | {name: name for name in known or ()}
        pairs = [split(name, form["joint"], set(outputs), whole) for name in ids]
        images, classes = [whole.get(image, image) for image, _ in pairs], [name for _, name in pairs]
    unknown = np.array([name not in set(outputs) for name in classes], dtype=bool)
    return images, [outputs[0] if bad else name for name, bad in zip(classes, unknown, strict=True)], unknown


def split(name: str, joint: str, outputs: set[str], known: Collection[str]) -> tuple[str, str]:
    """Split an id such as `<image>_<class>` into image and class.

    The split is after a `known` image if there is one, else before the longest class. The class is empty if
    the id ends in no class.
    """
    cuts, place = [], name.find(joint)
    while place >= 0:
        image, kind = name[:place], name[place + len(joint) :]
        if kind in outputs:
            cuts.append((image, kind))
        place = name.find(joint, place + 1)
    return next((cut for cut in cuts if cut[0] in known), (cuts or [(name, "")])[0])


def made_up(ids: list[str], form: dict[str, Any], outputs: list[str]) -> pd.DataFrame:
    """Construct the sample submission of these test ids if there is none."""
    rows = [(name, "") for name in ids]
    if form["pairs"]:
        rows = [(name, one) for name in ids for one in outputs]
    cells = [name for name, _ in rows]
    if form["pairs"] and form["class_column"] is None:
        cells = [f"{Path(name).stem if form['stems'] else name}{form['joint']}{one}" for name, one in rows]
    table = {column: [""] * len(rows) for column in form["columns"]}
    table |= {form["id_column"]: cells}
    if form["class_column"] is not None:
        table |= {form["class_column"]: [one for _, one in rows]}
    return pd.DataFrame(table, dtype=str)


def same_columns(
    table: pd.DataFrame, wanted: list[str], id_column: str, known: list[str] | None
) -> dict[str, str]:
    """Match the columns of a table to the `wanted` ones; return a mapping of found to wanted names.

    A column matches by exact name, by name without case and punctuation, the id column by its values, and a
    rest of equal length by position.
    """
    names = {column: column for column in table.columns if column in wanted}
    for plain in (str.lower, _plain):
        for column in table.columns:
            same = [one for one in wanted if plain(one) == plain(column) and one not in names.values()]
            if column not in names and len(same) == 1:
                names[column] = same[0]
    left = [column for column in table.columns if column not in names]
    if id_column in wanted and id_column not in names.values() and left:
        there = set(known or ())
        names[max(left, key=lambda column: (table[column].isin(there).sum(), -left.index(column)))] = (
            id_column
        )
        left = [column for column in left if column not in names]
    open_ = [one for one in wanted if one not in names.values()]
    if left and len(left) == len(open_):
        names |= dict(zip(left, open_, strict=True))
    for column, one in names.items():
        if column != one:
            print(f"column `{column}` is taken for `{one}`", flush=True)
    return names


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def read(path: Path) -> pd.DataFrame:
    """Read a CSV as strings; it may have no rows. Raises `UserError` if the file is no readable table."""
    for encoding in ("utf-8-sig", "latin-1"):
        try:
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, na_filter=False, index_col=False, encoding=encoding
            )
            return table.fillna("")  # older versions of pandas pad short rows with NaN nevertheless
        except UnicodeDecodeError:
            continue
        except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
            raise UserError(f"{path}: is no table that can be read ({error})") from None
    raise UserError(f"{path}: is no table that can be read")


def find(mount: Path, name: str, like: str = "(?!)") -> Path:
    """Find a table of the competition at its local path, else anywhere below by its name in any case.

    As a last resort a file matches whose lower-case name fits the pattern `like`. Raises `UserError` if there
    is none.
    """
    if (mount / name).is_file():
        return mount / name
    wanted = Path(name).name.lower()
    files = sorted(mount.rglob("*.[cC][sS][vV]"), key=lambda path: (len(path.parts), path))
    found = [path for path in files if path.name.lower() == wanted]
    found += [path for path in files if re.fullmatch(like, path.name.lower())]
    if not found:
        raise UserError(f"{mount}: there is no {Path(name).name} in it")
    return found[0]
