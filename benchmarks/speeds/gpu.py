"""The loop on a GPU: an epoch of JPEGs from the cache, augmented and sent there, against the bare steps on
tensors that are there already, and the share of an epoch in which no kernel runs. Without CUDA there is
nothing to measure."""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from speeds.loader import PIPELINES, write_images
from speeds.loop import bare_of, trainer_of
from speeds.rounds import covered, interleave, ratio

BACKBONES, SIZE, CACHED, BATCH, STEPS = ("resnet18", "efficientnet_b0", "convnext_tiny"), 224, 256, 64, 30


def measure(rounds: int, device: str = "cuda") -> dict[str, Any]:
    """By backbone: how many times as long as the bare steps, and the idle share of an epoch."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu: no CUDA device is here")
    found = {}
    with tempfile.TemporaryDirectory() as place:
        pixels = packed(Path(place))
        for backbone in BACKBONES:
            print(f"gpu, {backbone} at {SIZE} px, batch {BATCH}:", flush=True)
            settings = {
                "data": {"image_size": SIZE, "cache_size": CACHED},
                "model": {"backbone": backbone, "pretrained": False},
                "augment": PIPELINES["standard"],
                "train": {"batch_size": BATCH},
            }
            trainer = trainer_of(pixels, settings, device)
            loop = functools.partial(epoch, trainer)
            blenders = {"bare": finished(bare_of(trainer)), "loop": finished(loop)}
            seconds = interleave(blenders, rounds, time.perf_counter)
            found[backbone] = {"loop": ratio(seconds, "loop", "bare"), "idle": idle(loop)}
    name = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    return {"rows": found, "note": f"{name}, {SIZE} px, batches of {BATCH}, {STEPS} steps a round"}


def packed(folder: Path) -> Any:
    """The cache of as many JPEGs as an epoch has, the same few over and over."""
    from src.config import Config
    from src.data.packing import pack_images
    from src.data.pixels import open_pixels

    (folder / "files").mkdir()
    few = write_images(folder / "files")
    paths = [few[i % len(few)] for i in range(STEPS * BATCH)]
    data = Config(data={"image_size": SIZE, "cache_size": CACHED}).data
    path, raw = folder / f"images.{data.ending}", few[0].parent
    pack_images(path, paths, (len(paths), CACHED, CACHED, 3), data, "cache", print, raw)
    return open_pixels(path, data, raw)


def epoch(trainer: Any) -> None:
    """An epoch of the loop as `make train` runs it."""
    trainer.train_epoch(trainer.epoch, lambda *_, **__: None)


def finished(work: Any) -> Any:
    """The same, to the end of what it has sent to the device."""
    import torch

    def whole() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return whole


def idle(work: Any) -> float | None:
    """The share of its wall time in which no kernel runs, from the profiler's trace; None without CUDA."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        wall = time.perf_counter() - start
    spans = [(e.time_range.start, e.time_range.end) for e in trace.events() if e.device_type.name == "CUDA"]
    return 1 - covered(spans) / 1e6 / wall
