"""The members' tables: checked against each other, then read a run at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from src.artifacts import writing
from src.config import UserError
from src.ensemble.attenuation import FEWEST, ROWS
from src.tasks.base import PREFIX, Task

IN_MEMORY = 2**30  # bytes of all members' predictions, beyond which they lie on disk


def check_tables(folders: list[Path], columns: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Ids, folds and targets of the OOF rows, and the ids of the test rows; raises `UserError` where ids,
    folds or columns of a member differ from the first one's."""
    first, test_ids = None, None
    for folder in folders:
        names = {name: pq.read_schema(folder / f"{name}.parquet").names for name in ("oof", "test")}
        targets = [c for c in names["oof"] if c == "target" or c.startswith(PREFIX)]
        wanted = ["id", "fold"] if first is not None else ["id", "fold", *targets]
        oof = pd.read_parquet(folder / "oof.parquet", columns=wanted)
        ids = pd.read_parquet(folder / "test.parquet", columns=["id"])["id"].tolist()
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
    read = (task.read(pd.read_parquet(f / f"{table}.parquet", columns=columns), outputs) for f in folders)
    if task.kind != "numbers":
        return list(read)
    found: np.ndarray | None = None
    for member, one in enumerate(read):
        if found is None:
            found = _array((len(folders), *one.shape), scratch)
        found[member] = one
    return found


def read_folds(folders: list[Path], folds: np.ndarray, task: Task, outputs: list[str]) -> list[np.ndarray]:
    """Of each fold what the members' models of that fold alone say of the first test rows, (M, T, C); nothing
    where there are few rows, or such tables are not there."""
    paths = [[folder / f"fold{fold}" / "test.parquet" for folder in folders] for fold in folds]
    if task.kind != "numbers" or not all(path.exists() for of_fold in paths for path in of_fold):
        return []
    columns = list(task.columns(outputs))

    def first(path: Path) -> np.ndarray:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(ROWS, columns=columns))
        return task.read(batch.to_pandas(), outputs)

    if pq.read_metadata(paths[0][0]).num_rows < FEWEST:
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
