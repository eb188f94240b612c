"""Read the training labels from any of Kaggle's table layouts: one row per id, one text column per target.

| train.csv | keys | targets |
|---|---|---|
| one label column | `target: label` | that column |
| one column per label or number | `target: [cat, dog]` | those columns; for multiclass the one with a 1 |
| several labels per cell | `target: labels`, `label_separator: " "` | 0 or 1 per label |
| long format: a row per id-class pair | `long: class`, `target: value` | the value per class; else 0 |
| long format with only the true pairs | `long: class`, `target: class` | 1 for listed pairs, else 0 |
| run-length masks | `rle: pixels` (with `long: class`) | the runs of all rows of an id, a column per class |
| mask files | `train_masks: masks` | none: `Tables.masks` holds the files |
"""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import pandas as pd

from src.config import Config, UserError
from src.rawfiles import line_of
from src.tasks.base import in_order

NO_MASK = ("", "-1", "nan")  # how Kaggle's tables write an empty mask


def target_columns(config: Config) -> list[str]:
    """The target columns named in the config; none for segmentation, whose target is a mask."""
    if config.task.name == "segmentation":
        return []
    target = config.data.target
    return [target] if isinstance(target, str) else list(target)


def read_targets(train: pd.DataFrame, config: Config, path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training rows (one per id) and their targets in the same order, all as text.

    Raises `UserError` with column and row if the table does not have the layout of the config.
    """
    data = config.data
    for column in target_columns(config):
        present(train, column, path, key="data.target")
    if data.rle is not None and config.task.name == "segmentation":
        return _runs(train, config, path)
    if data.long is not None and config.task.name != "segmentation":
        return _from_pairs(train, config, path)
    columns = target_columns(config)
    # in retrieval a row has one label, although the sample's answers have a separator
    if data.label_separator is not None and columns and config.task.name != "retrieval":
        return train, _from_cells(train[columns[0]], data.label_separator, path)
    if config.task.name == "multiclass" and len(columns) > 1:
        return train, _from_one_hot(train[columns], path)
    return train, train[columns].copy()


def labels_of(cell: str, separator: str) -> list[str]:
    """The labels of one cell, stripped of spaces."""
    parts = cell.split() if separator.isspace() else cell.split(separator)
    return [part.strip() for part in parts if part.strip()]


def present(table: pd.DataFrame, column: str, path: Path, key: str = "data.id") -> str:
    """The name of the column. Raises `UserError` with similar names if it does not exist."""
    if column not in table.columns:
        near = difflib.get_close_matches(column, list(table.columns), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"{path}: there is no column {column!r}; {hint}it has {', '.join(table.columns)}; "
            f"set {key}, or let `make sniff` look"
        )
    return column


def filled(table: pd.DataFrame, column: str, path: Path) -> None:
    """Raise `UserError` for the first row where `column` is empty."""
    empty = (table[column].str.strip() == "").to_numpy()
    if empty.any():
        line = line_of(path, int(empty.argmax()))
        raise UserError(f"{path}, row {line}: `{column}` is empty; every row needs a value there")


def _from_cells(cells: pd.Series, separator: str, path: Path) -> pd.DataFrame:
    """0/1 columns per label from cells that hold several labels; an empty cell has none."""
    found = [set(labels_of(cell, separator)) for cell in cells]
    labels = in_order(list(set().union(*found)))
    if not any(len(one) > 1 for one in found):
        raise UserError(
            f"{path}: no row of `{cells.name}` holds {separator!r} between two labels; "
            f"set data.label_separator to what stands between them, or to null for one label a row"
        )
    return pd.DataFrame({label: ["1" if label in one else "0" for one in found] for label in labels})


def _from_one_hot(columns: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The one label of each row, from 0/1 columns. Raises `UserError` for a row without exactly one 1."""
    values = columns.apply(pd.to_numeric, errors="coerce")
    wrong = ~values.isin([0, 1]).all(axis=1).to_numpy() | (values.sum(axis=1) != 1).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        shown = ", ".join(f"{name} {columns[name].iloc[row]}" for name in columns.columns[:6])
        raise UserError(
            f"{path}, row {line_of(path, row)}: multiclass over {columns.shape[1]} columns needs one 1 a row "
            f"and 0 else ({shown}; {int(wrong.sum())} such row(s)); is task.name multilabel?"
        )
    return pd.DataFrame({"label": values.idxmax(axis=1).to_numpy()})


def _from_pairs(train: pd.DataFrame, config: Config, path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pivot the long format (one row per id-class pair) to one row per id and one column per class."""
    data = config.data
    name, value, numbers = (
        present(train, data.long, path, "data.long"),
        data.target,
        config.task.name == "regression",
    )
    pairs = _pairs(train, data.id, name, path, empty_is_none=value == name)
    if value == name:
        pairs = pairs.assign(**{"\0value": "1"})
    else:
        pairs = pairs.assign(**{"\0value": pairs[value].str.strip()})
        if numbers:
            _check_number(train, value, path)
        else:
            _check_zero_or_one(train, value, path)
            pairs["\0value"] = pairs["\0value"].map(lambda text: str(int(float(text))))
    ids = list(dict.fromkeys(train[data.id]))
    classes = in_order(list(set(pairs[name])))
    wide = pairs.pivot(index=data.id, columns=name, values="\0value").reindex(index=ids, columns=classes)
    if numbers and wide.isna().to_numpy().any():
        lost = wide.isna().stack()
        image, kind = lost[lost].index[0]
        raise UserError(
            f"{path}: id {image!r} has no row with `{name}` {kind!r}; a number is needed for each pair"
        )
    targets = wide.fillna("0").reset_index(drop=True).rename_axis(columns=None)
    return _one_row_an_id(train, data.id), targets


def _pairs(train: pd.DataFrame, key: str, name: str, path: Path, empty_is_none: bool) -> pd.DataFrame:
    """The rows that name a class. Raises `UserError` for a duplicate pair."""
    if empty_is_none:  # an id without any class still has a row
        train = train[train[name].str.strip() != ""]
    else:
        filled(train, name, path)
    twice = train.duplicated([key, name]).to_numpy()
    if twice.any():
        row = train.iloc[int(twice.argmax())]
        raise UserError(
            f"{path}, row {line_of(path, row.name)}: id {row[key]!r} with `{name}` {row[name]!r} stands "
            f"there already ({int(twice.sum())} such row(s)); every pair should stand once"
        )
    return train


def _check_zero_or_one(train: pd.DataFrame, column: str, path: Path) -> None:
    wrong = ~pd.to_numeric(train[column], errors="coerce").isin([0, 1]).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{path}, row {line_of(path, row)}: `{column}` is {train[column].iloc[row]!r}; "
            f"with data.long it says whether the pair holds, 0 or 1"
        )


def _check_number(train: pd.DataFrame, column: str, path: Path) -> None:
    wrong = ~np.isfinite(pd.to_numeric(train[column], errors="coerce").to_numpy(np.float64))
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{path}, row {line_of(path, row)}: `{column}` is {train[column].iloc[row]!r}, no number "
            f"({int(wrong.sum())} such row(s)); a regression target is one, such as 12.5"
        )


def _runs(train: pd.DataFrame, config: Config, path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The run-length encoded masks of each id, one column per class; the runs of several objects are
    joined."""
    data = config.data
    present(train, data.rle, path, "data.rle")
    runs = train[data.rle].str.strip()
    runs = runs.mask(runs.str.lower().isin(NO_MASK), "")
    classes = pd.Series(data.rle, index=train.index)
    if data.long is not None:
        classes = train[present(train, data.long, path, "data.long")].str.strip()
        nameless = ((classes == "") & (runs != "")).to_numpy()
        if nameless.any():
            line = line_of(path, int(nameless.argmax()))
            raise UserError(f"{path}, row {line}: there is a mask, but `{data.long}` is empty")
    table = pd.DataFrame({"id": train[data.id], "class": classes, "runs": runs})
    joined = (
        table[table["class"] != ""].groupby(["id", "class"], sort=False)["runs"].agg(" ".join).str.strip()
    )
    ids = list(dict.fromkeys(train[data.id]))
    names = in_order(list(set(classes) - {""}))
    wide = joined.unstack("class").reindex(index=ids, columns=names).fillna("")
    return _one_row_an_id(train, data.id), wide.reset_index(drop=True).rename_axis(columns=None)


def _one_row_an_id(train: pd.DataFrame, key: str) -> pd.DataFrame:
    return train.drop_duplicates(key).reset_index(drop=True)
