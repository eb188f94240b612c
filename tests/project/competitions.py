"""A small prepared competition per task, for tests that cover all six tasks."""

from __future__ import annotations

from pathlib import Path

from conftest import BASELINE, forget_the_listings, write_config
from digits import write_competition

from src.configfile import load_config
from src.data.prepare import prepare_dataset

TASKS = {  # per task: the data set of write_competition, and its config
    "multiclass": ("multiclass", ""),
    "binary": ("binary", "task: {name: binary}\n"),
    "multilabel": ("multilabel", "task: {name: multilabel}\ndata: {target: [loop, even, above four]}\n"),
    "regression": ("regression", "task: {name: regression}\ndata: {target: target}\n"),
    "segmentation": ("segmentation", "task: {name: segmentation}\ndata: {rle: rle}\n"),
    "retrieval": ("retrieval", "task: {name: retrieval}\ndata: {target: Id, new_label: new_id}\n"),
}


def prepare_competition(
    folder: Path,
    task: str,
    image_size: int = 16,
    n_train: int = 80,
    n_test: int = 24,
    cache_size: int | None = None,
) -> Path:
    """Create a project below `folder` with the task's raw files, run stage 01, return its `baseline.yaml`."""
    made, text = TASKS[task]
    write_competition(folder / "data" / "raw", n_train=n_train, n_test=n_test, task=made)
    write_config(
        folder,
        "common",
        BASELINE.replace("image_size: 16", f"image_size: {image_size}\n  cache_size: {cache_size or 'null'}"),
    )
    path = write_config(folder, "baseline", f"base: common\n{text}")
    forget_the_listings()
    prepare_dataset(load_config(path))
    return path
