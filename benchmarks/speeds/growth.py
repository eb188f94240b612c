"""How the seconds of what is not the network grow with the rows: fitted exponents, 1 where twice the rows
take twice the time."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

import speeds.rounds  # noqa: F401  (puts the project's code in reach)

CLASSES = 10


def folds(n: int) -> Callable[[], None]:
    """Near-duplicates looked for, and rows shared out: without files."""
    from src.data.folds import assign, duplicate_groups, together

    random = np.random.default_rng(0)
    index = pd.DataFrame(
        {
            "content": [f"{i}" for i in range(n)],
            "phash": random.integers(2**64, size=n, dtype=np.uint64),
            "thumbnail": [random.bytes(256) for _ in range(n)],
        }
    )
    strata = random.integers(0, CLASSES, n)

    def work() -> None:
        groups = together(duplicate_groups(index, 4), None, 5)
        assign("stratified", strata, groups, 5, 0)

    return work


def cache(n: int) -> Callable[[], None]:
    """PNG files of 24 px decoded, hashed and packed at 16 px."""
    from src.config import Data
    from src.data.packing import pack

    folder = Path(tempfile.mkdtemp())
    kept.append(folder)
    random, files = np.random.default_rng(0), []
    for i in range(n):
        files.append(folder / f"{i}.png")
        cv2.imwrite(str(files[-1]), random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    return lambda: pack(folder / "images.npy", files, (n, 16, 16, 3), Data(image_size=16), "cache", print)


def predictions(n: int) -> tuple[pd.DataFrame, list[str]]:
    random, names = np.random.default_rng(0), [f"class {c}" for c in range(CLASSES)]
    said = random.dirichlet(np.full(CLASSES, 0.1), n).astype(np.float32)
    return pd.DataFrame(said, columns=names).assign(id=[f"{i}" for i in range(n)]), names


def selection(n: int) -> Callable[[], None]:
    """Pseudo-labels chosen from a fold's predictions."""
    from src.config import Config
    from src.pseudo.select import select
    from src.tasks import create_task

    config = Config()
    table, names = predictions(n)
    task = create_task(config)
    return lambda: select(table, task, names, config.pseudo)


def tables(n: int) -> Callable[[], None]:
    """A prediction table written and read, as every stage does."""
    from src.artifacts import write_parquet

    folder = Path(tempfile.mkdtemp())
    kept.append(folder)
    table, _ = predictions(n)

    def work() -> None:
        write_parquet(folder / "table.parquet", table)
        pd.read_parquet(folder / "table.parquet")

    return work


kept: list[Path] = []
SUBJECTS = {
    "folds: near-duplicates and shares": (folds, (1_000, 10_000, 100_000, 1_000_000)),
    "cache: decode, hash, pack": (cache, (1_000, 10_000)),
    "selection of pseudo-labels": (selection, (1_000, 10_000, 100_000, 1_000_000)),
    "prediction tables, written and read": (tables, (1_000, 10_000, 100_000, 1_000_000)),
}


def measure(rounds: int, most: int = 1_000_000) -> dict[str, Any]:
    """CPU seconds of each subject at each size, medians, and the exponent between the ends of the sizes."""
    import shutil

    rows = {}
    for name, (make, sizes) in SUBJECTS.items():
        seconds = {}
        for n in (size for size in sizes if size <= most):
            work, times = make(n), []
            for _ in range(rounds if n < 100_000 else min(rounds, 3)):
                start = time.process_time()
                work()
                times.append(time.process_time() - start)
            seconds[n] = statistics.median(times)
            print(f"{name}, {n:,}: {seconds[n]:.3f} s", flush=True)
        x, y = np.log(list(seconds)), np.log(list(seconds.values()))
        last = slice(-2, None)  # a fixed part hides the growth of small sizes
        rows[name] = {
            "seconds": seconds,
            "exponent": float(np.polyfit(x, y, 1)[0]),
            "last": float(np.polyfit(x[last], y[last], 1)[0]),
        }
    for folder in kept:
        shutil.rmtree(folder, ignore_errors=True)
    return {"rows": rows}
