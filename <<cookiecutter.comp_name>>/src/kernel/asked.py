"""What a mounted competition asks for, whatever its tables are like: its rows under the columns of home.

A hidden sample submission may name its id column otherwise, hold columns of its own, list an id twice or be
missing. None of this may keep a kernel from writing a submission of the rows that are there.
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

TWICE, UNKNOWN = "duplicate id", "unknown class"  # why a row is not answered


@dataclass(frozen=True)
class Asked:
    """The rows of the sample under the columns of home, what each means, and how it was written there."""

    sample: pd.DataFrame
    form: SampleForm
    path: Path  # the sample's, or of what stood in for it
    found: pd.DataFrame  # as it was found, columns and all
    names: dict[str, str]  # found column to column of home
    refused: dict[str, np.ndarray]  # rows that cannot be answered (rows,) by reason

    @property
    def answered(self) -> np.ndarray:
        """Rows (n,) whose image and class can be told."""
        return ~np.any([np.zeros(len(self.sample), dtype=bool), *self.refused.values()], axis=0)

    def as_found(self, table: pd.DataFrame) -> pd.DataFrame:
        """A submission under the columns of home as the sample has it: its names, its order, and what it
        holds in columns that home does not know."""
        back = {home: found for found, home in self.names.items()}
        table = table.rename(columns=back)
        more = [column for column in self.found.columns if column not in table]
        table = table.assign(**{column: self.found[column].to_numpy() for column in more})
        order = [column for column in self.found.columns if column in table]
        return table[[*order, *(column for column in table if column not in order)]]


def asked_for(
    found: pd.DataFrame, path: Path, form: dict[str, Any], outputs: list[str], known: list[str] | None
) -> Asked:
    """The rows of a sample as it was found; `form` is that of home, `known` are the ids of the test table."""
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
    """Each row's image, its class where a row is a pair, and the rows (n,) that name no class of ours."""
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
    """Image and class of an id such as `<image>_<class>`: where a `known` image ends if there is one, else at
    the longest class; no class where the id ends in none."""
    cuts, place = [], name.find(joint)
    while place >= 0:
        image, kind = name[:place], name[place + len(joint) :]
        if kind in outputs:
            cuts.append((image, kind))
        place = name.find(joint, place + 1)
    return next((cut for cut in cuts if cut[0] in known), (cuts or [(name, "")])[0])


def made_up(ids: list[str], form: dict[str, Any], outputs: list[str]) -> pd.DataFrame:
    """The sample that these test ids would have, where there is none."""
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
    """Which column of a table is which of the `wanted`: of that name, of that name in other letters, by its
    values where it is the id, else by what is left over on either side."""
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
    """A table of text, with no rows too; raises `UserError` for a file that is none."""
    for encoding in ("utf-8-sig", "latin-1"):
        try:
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, na_filter=False, index_col=False, encoding=encoding
            )
            return table.fillna("")  # older versions of pandas end a short row so all the same
        except UnicodeDecodeError:
            continue
        except (OSError, ValueError) as error:  # pandas' own errors are of the latter kind
            raise UserError(f"{path}: is no table that can be read ({error})") from None
    raise UserError(f"{path}: is no table that can be read")


def find(mount: Path, name: str, like: str = "(?!)") -> Path:
    """A table of the competition, where it was at home or anywhere below, in capitals or not; or else one
    whose name is `like` it, a pattern for lower-case names."""
    if (mount / name).is_file():
        return mount / name
    wanted = Path(name).name.lower()
    files = sorted(mount.rglob("*.[cC][sS][vV]"), key=lambda path: (len(path.parts), path))
    found = [path for path in files if path.name.lower() == wanted]
    found += [path for path in files if re.fullmatch(like, path.name.lower())]
    if not found:
        raise UserError(f"{mount}: there is no {Path(name).name} in it")
    return found[0]
