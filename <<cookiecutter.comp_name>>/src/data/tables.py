"""Kaggle's tables, read as text and checked: an id such as 00123 stays one, a mistake is named with its
row."""

from __future__ import annotations

import difflib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from src.config import Config, UserError
from src.steps import image_folders, raw_tables

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Tables:
    """The competition's tables; all values are text. `images` holds the file of each train and test row."""

    train: pd.DataFrame
    test: pd.DataFrame
    sample: pd.DataFrame
    images: dict[str, list[Path]]


def load_tables(config: Config) -> Tables:
    """Read and check everything Kaggle handed out; raises `UserError` with file and row for what cannot be
    right."""
    from src.tasks import create_task

    paths, data = raw_tables(config), config.data
    task = create_task(config)
    train = read_table(paths["train"])
    sample = read_table(paths["sample"])
    test = (
        read_table(paths["test"])
        if "test" in paths
        else sample[[_present(sample, data.id, paths["sample"])]].copy()
    )
    for role, table in (("train", train), ("test", test), ("sample", sample)):
        _check_ids(table, data.id, paths.get(role, paths["sample"]))
    _present(train, data.target, paths["train"], key="data.target")
    if data.group is not None:
        _present(train, data.group, paths["train"], key="data.group")
        _check_filled(train, data.group, paths["train"])
    task.check_targets(train, data.target, paths["train"])
    _check_same_ids(test, sample, data.id, paths)
    outputs = task.describe(train[data.target])["outputs"]
    task.check_sample(sample, data.id, outputs, paths["sample"])
    folders = image_folders(config)
    images = {
        "train": find_images(train, folders["train"], data.id, data.image, paths["train"]),
        "test": find_images(test, folders["test"], data.id, data.image, paths.get("test", paths["sample"])),
    }
    return Tables(train, test, sample, images)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV as text columns, nothing taken for a missing value; raises `UserError` for an empty or broken
    file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # index_col: without it a comma too many on every line shifts all columns by one, and nothing is
            # said
            table = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, index_col=False)
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the file is empty; it should start with a line of column names") from None
    except pd.errors.ParserWarning:
        raise UserError(
            f"{path}: its lines hold more values than there are column names; is there a comma too many?"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable CSV ({str(error).strip().splitlines()[-1]})") from None
    if len(table) == 0:
        raise UserError(f"{path}: there are column names but no rows; is the download complete?")
    return table


def find_images(
    table: pd.DataFrame, folder: Path, id_column: str, image_column: str | None, path: Path
) -> list[Path]:
    """The image file of each row, looked up by the file name with or without its extension.

    Raises `UserError` naming the first row without a file and how many there are, or a name that two files
    answer to.
    """
    column = id_column if image_column is None else _present(table, image_column, path, key="data.image")
    by_name = _files_by_name(folder)
    wanted = table[column].str.replace("\\", "/").str.removeprefix("./").str.removeprefix(f"{folder.name}/")
    found = [next((known[name] for known in by_name if name in known), ()) for name in wanted]
    for row, several in enumerate(found):
        if len(several) > 1:
            raise UserError(
                f"{path}, row {row + 2}: `{column}` {table[column].iloc[row]!r} could be "
                f"{several[0]} or {several[1]}; "
                f"give the path inside {folder.name} in a column and name that column in data.image"
            )
    files = [several[0] if several else None for several in found]
    missing = [row for row, file in enumerate(files) if file is None]
    if missing:
        row = missing[0]
        name = table[column].iloc[row]
        example = name if name.lower().endswith(IMAGE_SUFFIXES) else f"{name}.png"
        raise UserError(
            f"{path}, row {row + 2}: no image for `{column}` {name!r} in {folder} "
            f"({len(missing)} of {len(files)} missing); a file such as {example} should be there"
        )
    return files


def _files_by_name(folder: Path) -> list[dict[str, list[Path]]]:
    """Every image file below `folder` by each name it may be called, the surest kind of name first."""
    kinds: list[dict[str, list[Path]]] = [{}, {}, {}, {}]
    for base, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES):
                file = Path(base, name)
                inside = file.relative_to(folder)
                keys = (inside.as_posix(), inside.with_suffix("").as_posix(), file.name, file.stem)
                for known, key in zip(kinds, keys, strict=True):
                    known.setdefault(key, []).append(file)
    return kinds


def _present(table: pd.DataFrame, column: str, path: Path, key: str = "data.id") -> str:
    if column not in table.columns:
        near = difflib.get_close_matches(column, list(table.columns), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"{path}: there is no column {column!r}; {hint}it has {', '.join(table.columns)}; set {key}"
        )
    return column


def _check_filled(table: pd.DataFrame, column: str, path: Path) -> None:
    empty = (table[column].str.strip() == "").to_numpy()
    if empty.any():
        raise UserError(
            f"{path}, row {int(empty.argmax()) + 2}: `{column}` is empty; every row needs a value there"
        )


def _check_ids(table: pd.DataFrame, column: str, path: Path) -> None:
    _present(table, column, path)
    _check_filled(table, column, path)
    twice = table[column].duplicated().to_numpy()
    if twice.any():
        row = int(twice.argmax())
        name = table[column].iloc[row]
        first = int((table[column] == name).to_numpy().argmax())
        raise UserError(
            f"{path}, row {row + 2}: id {name!r} stands already in row {first + 2} "
            f"({int(twice.sum())} such row(s)); every id should stand once"
        )


def _check_same_ids(test: pd.DataFrame, sample: pd.DataFrame, column: str, paths: dict[str, Path]) -> None:
    lost = set(sample[column]) ^ set(test[column])
    if lost:
        name = min(lost)
        where, other = ("sample", "test") if name in set(sample[column]) else ("test", "sample")
        raise UserError(
            f"{paths[where]}: id {name!r} is not in {paths.get(other, paths['sample'])} "
            f"({len(lost)} such id(s)); both files should list the same test rows"
        )
