"""How seconds and memory grow with the rows: fitted exponents, 1 where twice the rows take twice the time."""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from speeds.predict import SIZE, anonymous, parts, store_of

CLASSES = 10


def folds(n: int) -> Callable[[], None]:
    """Near-duplicates looked for, and rows shared out: without files."""
    from src.data.folds import _kept_together, assign, duplicate_groups

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
        groups = _kept_together(duplicate_groups(index, 4), None, 5)
        assign("stratified", strata, groups, 5, 0)

    return work


def cache(n: int) -> Callable[[], None]:
    """PNG files of 24 px decoded, hashed and packed at 16 px; of many a thousand are read again and again."""
    from src.config import Data
    from src.data.packing import pack_images

    folder = Path(tempfile.mkdtemp())
    kept.append(folder)
    random, files = np.random.default_rng(0), []
    for i in range(1000):
        files.append(folder / f"{i}.png")
        cv2.imwrite(str(files[-1]), random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    files *= n // 1000
    return lambda: pack_images(
        folder / "images.npy", files, (n, 16, 16, 3), Data(image_size=16), "cache", print
    )


def prediction(n: int) -> Callable[[], None]:
    """The smallest network on images of 16 px, in a mapped file."""
    import torch

    from src.config import Inference
    from src.inference.predict import predict

    folder = Path(tempfile.mkdtemp())
    kept.append(folder)
    shape = (n, SIZE, SIZE, 3)
    pixels = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    pixels[:] = 128
    (model, task), store, cpu = parts("test_resnet", SIZE), store_of(pixels), torch.device("cpu")
    return lambda: predict(model, task, store, store.test, Inference(batch_size=250), cpu)


def stacking(n: int) -> Callable[[], None]:
    """The whole of stage 05 with all blenders over five runs."""
    import stacking

    stacking.RUNS, stacking.BUILD = 5, Path(tempfile.mkdtemp())
    kept.append(stacking.BUILD)
    stacking.make(n)
    return lambda: stacking.one(n, "all")


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
ALL = (1_000, 10_000, 100_000, 1_000_000)
SUBJECTS = {
    "folds: near-duplicates and shares": folds,
    "cache: decode, hash, pack": cache,
    "prediction, smallest network": prediction,
    "selection of pseudo-labels": selection,
    "prediction tables, written and read": tables,
    "stack of five runs, all blenders": stacking,
}
SLOW = 20.0  # seconds: what takes longer is done once


class Peak:
    """The most memory beyond what there was, looked at fifty times a second."""

    def __enter__(self) -> Peak:
        self.before = self.most = anonymous()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.over.wait(0.02):
            self.most = max(self.most, anonymous())

    def __exit__(self, *_: object) -> None:
        self.most = max(self.most, anonymous())
        self.over.set()
        self.thread.join()


def one(name: str, n: int, rounds: int, answers: Any) -> None:
    """CPU seconds, the median, and bytes of memory of one subject at one size."""
    import torch

    torch.set_num_threads(1)
    SUBJECTS[name](ALL[0])()  # imports, and whatever else is done once
    work, times = SUBJECTS[name](n), []
    with Peak() as peak:
        while len(times) < rounds and (not times or times[0] < SLOW):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
    for folder in kept:
        shutil.rmtree(folder, ignore_errors=True)
    answers.put((statistics.median(times), peak.most - peak.before))


def measure(rounds: int, most: int = ALL[-1]) -> dict[str, Any]:
    """Of each subject at each size, in a process of its own, seconds and memory; and the exponents of the
    seconds, over all sizes and over the last two."""
    rows, context = {}, multiprocessing.get_context("spawn")
    for name in SUBJECTS:
        seconds, memory = {}, {}
        for n in (size for size in ALL if size <= most):
            answers = context.SimpleQueue()
            process = context.Process(target=one, args=(name, n, rounds, answers))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{name}, {n:,} rows: ended with status {process.exitcode}")
            seconds[n], memory[n] = answers.get()
            print(f"{name}, {n:,}: {seconds[n]:.3f} s, {memory[n] / 2**20:.0f} MiB", flush=True)
        x, y = np.log(list(seconds)), np.log(list(seconds.values()))
        last = slice(-2, None)  # a fixed part hides the growth of small sizes
        rows[name] = {
            "seconds": seconds,
            "memory": memory,
            "exponent": float(np.polyfit(x, y, 1)[0]),
            "last": float(np.polyfit(x[last], y[last], 1)[0]),
        }
    return {"rows": rows}
