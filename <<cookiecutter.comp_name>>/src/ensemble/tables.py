"""The members' prediction tables: checked against each other, then read one run at a time."""

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
from src.ensemble.attenuation import FEWEST_TEST_ROWS, NOISE_ROWS
from src.reading import decoding, made_by, parquet_footer, read_csv, read_dataset, read_parquet
from src.tasks import create_task
from src.tasks.base import TARGET_PREFIX, Task

IN_MEMORY = 2**30  # size limit in bytes for all members' predictions; larger arrays are memory-mapped


@dataclass(frozen=True)
class Rows:
    """The rows that every member's tables must have: OOF ids with their folds, and test ids."""

    ids: list[str]
    folds: list[int]
    test_ids: list[str]


def expected_rows(config: Config, folders: list[Path]) -> Rows:
    """OOF rows as in data/folds.csv, and the test rows that are most common among the runs and the newest
    image cache."""
    path = config.root / "data" / "folds.csv"
    table = read_csv(path, ("id", "fold"), dtype=str, keep_default_na=False, na_filter=False)
    with decoding(path):
        folds = table["fold"].astype(int).tolist()
    lists = []
    for folder in folders:
        with contextlib.suppress(UserError):  # reported when that run is checked
            lists.append(tuple(read_parquet(folder / "test.parquet", ["id"])["id"]))
    caches = (config.root / "data" / "cache").glob("*/index.parquet")
    for index in sorted(caches, key=lambda path: path.stat().st_mtime_ns)[-1:]:
        with contextlib.suppress(UserError):
            table_of_images = read_parquet(index, ["set", "id"])
            lists.append(tuple(table_of_images.loc[table_of_images["set"] == "test", "id"]))
    return Rows(table["id"].tolist(), folds, list(Counter(lists).most_common(1)[0][0]) if lists else [])


def check_member(config: Config, folder: Path, expected: Rows) -> None:
    """Check the tables of a run. Raises `UserError` that names the table if it cannot be read, lacks columns,
    has other rows, or holds predictions that are not finite."""
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
    """Ids, folds and targets of the OOF rows, and the ids of the test rows. Raises `UserError` if a member's
    ids, folds or columns differ from those of the first member."""
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
    """Each member's predictions from `table` ("oof" or "test"). Numbers become one (M, N, C) float32 array,
    filled one run at a time and memory-mapped from an unlinked file in `scratch` if it is large; other kinds
    become a list."""
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
    """For each fold, the predictions (M, T, C) of the members' models of that fold alone for the first test
    rows. An empty list if there are too few rows or if such tables are missing."""
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
    if rows < FEWEST_TEST_ROWS:
        return []
    return [np.stack([first(path) for path in of_fold]) for of_fold in paths]


def _array(shape: tuple[int, ...], scratch: Path) -> np.ndarray:
    """An uninitialised float32 array in memory, or memory-mapped if it is large; its file disappears when it
    is no longer used."""
    if 4 * np.prod(shape, dtype=np.int64) <= IN_MEMORY:
        return np.empty(shape, np.float32)
    path = scratch / ".members.tmp"
    with writing(path):
        scratch.mkdir(parents=True, exist_ok=True)
        room = np.memmap(path, np.float32, "w+", shape=shape)
        path.unlink()
    return room
