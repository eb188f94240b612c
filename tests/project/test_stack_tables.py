"""Members' tables of any length: a run and its columns at a time, on disk where memory is too small."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from src.artifacts import write_parquet
from src.config import Config
from src.ensemble import tables
from src.ensemble.blenders.base import rows_of_members
from src.ensemble.tables import read_predictions
from src.tasks import create_task

OUTPUTS = ["cat", "dog", "cow"]
TASK = create_task(Config())


@pytest.fixture
def members(tmp_path):
    """The folders of four runs, and what they say (4, 50, 3)."""
    said = np.random.default_rng(0).dirichlet([1.0] * 3, (4, 50)).astype(np.float32)
    folders = [tmp_path / f"run{m}" for m in range(4)]
    for folder, one in zip(folders, said, strict=True):
        table = pd.DataFrame(one, columns=OUTPUTS)
        table.insert(0, "id", [f"{i:03d}" for i in range(50)])
        write_parquet(folder / "oof.parquet", table.assign(fold=0, target="cat", remark="long" * 100))
    return folders, said


def test_beyond_what_memory_is_meant_for_they_lie_in_a_file_without_a_name(members, tmp_path, monkeypatch):
    folders, said = members
    here = read_predictions(folders, "oof", TASK, OUTPUTS, tmp_path / "stack")
    assert not isinstance(here, np.memmap)
    monkeypatch.setattr(tables, "IN_MEMORY", said.nbytes - 1)
    there = read_predictions(folders, "oof", TASK, OUTPUTS, tmp_path / "stack")
    assert isinstance(there, np.memmap)
    assert list((tmp_path / "stack").iterdir()) == []
    for found in (here, there):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, said)
    part = rows_of_members(there, np.array([7, 3]))
    assert not isinstance(part, np.memmap)
    np.testing.assert_array_equal(part, said[:, [7, 3]])


def test_one_table_at_a_time_is_read_and_of_it_the_outputs_alone(members, tmp_path, monkeypatch):
    read, asked = tables.read_parquet, []

    def spied(path, columns=None):
        asked.append((path.parent.name, columns))
        return read(path, columns)

    monkeypatch.setattr(tables, "read_parquet", spied)
    read_predictions(members[0], "oof", TASK, OUTPUTS, tmp_path)
    assert asked == [(f"run{m}", OUTPUTS) for m in range(4)]
