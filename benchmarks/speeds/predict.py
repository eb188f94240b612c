"""Prediction: four views against one, and how much memory it takes for how many test images."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from speeds.rounds import interleave, ratio

VIEWS = ["identity", "hflip", "vflip", "rot180"]
ROWS = (1_000, 10_000, 100_000)
SIZE, CLASSES = 16, 10  # pixels of the many images: it is their number that is asked about


def parts(backbone: str, size: int) -> tuple[Any, Any]:
    """A network and its task."""
    from src.config import Config
    from src.models.architecture import Architecture
    from src.models.build import create_model
    from src.tasks import create_task

    architecture = Architecture(backbone, CLASSES, size, (0.5,) * 3, (0.2,) * 3)
    return create_model(architecture, False), create_task(Config())


def store_of(pixels: np.ndarray) -> Any:
    from src.data.images import ImageStore

    every = np.arange(len(pixels))
    return ImageStore(pixels, every[:0], every, [], [""] * len(pixels), (0.5,) * 3, (0.2,) * 3)


def views(rounds: int) -> tuple[float, float, float]:
    """How many times as long four views take as one."""
    import torch

    from src.config import Inference
    from src.inference.predict import predict

    model, task = parts("resnet18", 96)
    store = store_of(np.random.default_rng(0).integers(0, 256, (64, 96, 96, 3), dtype=np.uint8))
    cpu = torch.device("cpu")
    blenders = {
        str(n): lambda n=n: predict(
            model, task, store, store.test, Inference(tta=VIEWS[:n], batch_size=32), cpu
        )
        for n in (1, 4)
    }
    print("prediction, four views and one:", flush=True)
    return ratio(interleave(blenders, rounds), "4", "1")


def anonymous() -> int:
    """Bytes of this process's memory that are no pages of a mapped file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the system does not say how much memory a process has; Linux does")


def memory() -> dict[int, float]:
    """By the number of test images: MiB at most above what there was before, the images in a mapped file."""
    import torch

    from src.config import Inference
    from src.inference.predict import predict

    model, task = parts("test_resnet", SIZE)
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for n in (ROWS[0], *ROWS):  # the first warms up
            path = Path(place, f"{n}.npy")
            pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, SIZE, SIZE, 3))
            pixels[:] = 128
            store, before, most = store_of(pixels), anonymous(), [0]

            def look(_: int, most: list[int] = most) -> None:
                most[0] = max(most[0], anonymous())

            predict(model, task, store, store.test, Inference(batch_size=250), torch.device("cpu"), look)
            found[n] = (most[0] - before) / 2**20
            print(f"prediction of {n:,} images: {found[n]:.1f} MiB", flush=True)
    return found


def measure(rounds: int) -> dict[str, Any]:
    """Both."""
    return {"views": views(rounds), "memory": memory(), "note": f"test_resnet at {SIZE} px for the memory"}
