"""The members' tables: checked against each other, then read a run at a time."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from src.artifacts import writing
from src.config import Config, UserError
from src.ensemble.attenuation import FEWEST_FOLDS, NOISE_ROWS
from src.reading import decoding, made_by, parquet_footer, read_csv, read_dataset, read_parquet
from src.tasks import create_task
from src.tasks.base import TARGET_PREFIX, Task

IN_MEMORY = 2**30  # bytes of all members' predictions, beyond which they lie on disk


@dataclass(frozen=True)
class Rows:
    """The rows that the tables of every member must have: OOF rows with their folds, and test rows."""

    ids: list[str]
    folds: list[int]
    test_ids: list[str]


def expected_rows(config: Config, folders: list[Path]) -> Rows:
    """OOF rows as data/folds.csv has them; test rows as most of the runs and the newest image cache have
    them."""
    path = config.root / "data" / "folds.csv"
    table = read_csv(path, ("id", "fold"), dtype=str, keep_default_na=False, na_filter=False)
    with decoding(path):
        folds = table["fold"].astype(int).tolist()
    lists = []
    for folder in folders:
        with contextlib.suppress(UserError):  # said when that run is looked at
            lists.append(tuple(read_parquet(folder / "test.parquet", ["id"])["id"]))
    caches = (config.root / "data" / "cache").glob("*/index.parquet")
    for index in sorted(caches, key=lambda path: path.stat().st_mtime_ns)[-1:]:
        with contextlib.suppress(UserError):
            table_of_images = read_parquet(index, ["set", "id"])
            lists.append(tuple(table_of_images.loc[table_of_images["set"] == "test", "id"]))
    return Rows(table["id"].tolist(), folds, list(Counter(lists).most_common(1)[0][0]) if lists else [])


def check_member(config: Config, folder: Path, expected: Rows) -> None:
    """Raise `UserError` naming the table of a run that cannot be read, lacks columns, has other rows, or
    holds predictions that are not finite."""
    task = create_task(config)
    columns = list(task.columns(read_dataset(config.root)["outputs"]))
    for name, ids in (("oof", expected.ids), ("test", expected.test_ids)):
        path, head = folder / f"{name}.parquet", ["id", "fold"] if name == "oof" else ["id"]
        rows, _ = parquet_footer(path, [*head, *columns])
        if rows != len(ids):
            raise UserError(f"{path}: has {rows:,} rows where {len(ids):,} should be; {made_by(path)}")
        numbers = columns if task.kind == "numbers" else []
        table = read_parquet(path, [*head, *numbers])
        if table["id"].tolist() != ids or (name == "oof" and table["fold"].tolist() != expected.folds):
            raise UserError(f"{path}: its ids or folds are not those of the other tables; {made_by(path)}")
        with decoding(path):
            finite = np.isfinite(table[numbers].to_numpy(np.float64)).all(1)
        if not finite.all():
            raise UserError(
                f"{path}: the predictions of {int((~finite).sum()):,} of {rows:,} rows are not finite "
                f"numbers (the first is id {table['id'][int(finite.argmin())]!r}): a training of it "
                f"diverged; train it again with a lower train.lr"
            )


def check_tables(folders: list[Path], columns: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Ids, folds and targets of the OOF rows, and the ids of the test rows; raises `UserError` where ids,
    folds or columns of a member differ from the first one's."""
    first, test_ids = None, None
    for folder in folders:
        names = {name: parquet_footer(folder / f"{name}.parquet")[1] for name in ("oof", "test")}
        targets = [c for c in names["oof"] if c == "target" or c.startswith(TARGET_PREFIX)]
        wanted = ["id", "fold"] if first is not None else ["id", "fold", *targets]
        oof = read_parquet(folder / "oof.parquet", wanted)
        ids = read_parquet(folder / "test.parquet", ["id"])["id"].tolist()
        if first is None:
            first, test_ids = oof, ids
        same = oof["id"].tolist() == first["id"].tolist() and oof["fold"].tolist() == first["fold"].tolist()
        if not same or ids != test_ids or any(not set(columns) <= set(there) for there in names.values()):
            raise UserError(
                f"{folder}: its ids, folds or columns differ from {folders[0].name}'s; "
                f"run `make oof` for it again"
            )
    return first, test_ids


def read_predictions(folders: list[Path], table: str, task: Task, outputs: list[str], scratch: Path) -> Any:
    """Each member's predictions in `table` (oof, test): of numbers one (M, N, C) float32 array, read a run at
    a time, and kept in a nameless file of `scratch` where it is large; else a list."""
    columns = list(task.columns(outputs))
    read = (task.read(read_parquet(f / f"{table}.parquet", columns), outputs) for f in folders)
    if task.kind != "numbers":
        return list(read)
    found: np.ndarray | None = None
    for member, one in enumerate(read):
        if found is None:
            found = _array((len(folders), *one.shape), scratch)
        found[member] = one
    return found


def read_fold_predictions(
    folders: list[Path], folds: np.ndarray, task: Task, outputs: list[str]
) -> list[np.ndarray]:
    """Of each fold what the members' models of that fold alone say of the first test rows, (M, T, C); nothing
    where there are few rows, or such tables are not there."""
    paths = [[folder / f"fold{fold}" / "test.parquet" for folder in folders] for fold in folds]
    if task.kind != "numbers" or not all(path.exists() for of_fold in paths for path in of_fold):
        return []
    columns = list(task.columns(outputs))

    def first(path: Path) -> np.ndarray:
        with decoding(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            batch = next(file.iter_batches(NOISE_ROWS, columns=columns))
            return task.read(batch.to_pandas(), outputs)

    found = {path: parquet_footer(path, columns)[0] for of_fold in paths for path in of_fold}
    rows = Counter(found.values()).most_common(1)[0][0]
    for path, own in found.items():
        if own != rows:
            raise UserError(f"{path}: has {own:,} rows, such tables have {rows:,}; {made_by(path)}")
    if rows < FEWEST_FOLDS:
        return []
    return [np.stack([first(path) for path in of_fold]) for of_fold in paths]


def _array(shape: tuple[int, ...], scratch: Path) -> np.ndarray:
    """Room for float32 numbers, in memory or on disk; the file is gone with its last user."""
    if 4 * np.prod(shape, dtype=np.int64) <= IN_MEMORY:
        return np.empty(shape, np.float32)
    path = scratch / ".members.tmp"
    with writing(path):
        scratch.mkdir(parents=True, exist_ok=True)
        room = np.memmap(path, np.float32, "w+", shape=shape)
        path.unlink()
    return room
