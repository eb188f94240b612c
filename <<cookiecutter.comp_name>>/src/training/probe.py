"""Probe of this machine: training throughput, peak memory, and the largest batch size that fits."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice

import torch

from src.data.mixing import Batch
from src.training.single_steps import take_step, windows
from src.training.trainer import Trainer

WARM, MOST, SECONDS = 3, 30, 10.0  # warm-up steps; limits of the timed steps and seconds
_LARGEST = 4096  # images per batch: beyond this, memory is not what limits


def images_per_second(trainer: Trainer) -> float:
    """Training throughput in images per second, with loading and augmentation, after warm-up steps."""
    trainer.freeze.apply(trainer.config.train.freeze_epochs or 0)
    endless = windows(trainer)
    for window in islice(endless, WARM):
        take_step(trainer, window)
    synchronize(trainer.device)
    began, images = time.perf_counter(), 0
    for window in islice(endless, MOST):
        take_step(trainer, window)
        images += sum(len(weights) for _, _, weights in window)
        if time.perf_counter() - began > SECONDS:
            break
    synchronize(trainer.device)
    return images / (time.perf_counter() - began)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: reserved on a CUDA device, otherwise resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def doublings(first: int, last: int = _LARGEST) -> Iterator[int]:
    """`first`, twice that, and so on up to `last`."""
    while first <= last:
        yield first
        first *= 2


def largest_batch(fits: Callable[[int], bool], first: int, last: int = _LARGEST) -> int | None:
    """The largest batch size that fits, by doubling `first` while it fits, or halving it until it does.

    Returns None if not even two images fit.
    """
    found = None
    for size in doublings(first, last):
        if not fits(size):
            break
        found = size
    size = first // 2
    while found is None and size >= 2:
        if fits(size):
            found = size
        size //= 2
    return found


def fits_on(trainer: Trainer, batch: Batch) -> Callable[[int], bool]:
    """A function that tells whether a training step with `size` images, copies of those in `batch`, fits
    into the device's memory."""

    def fits(size: int) -> bool:
        copies = torch.arange(size, device=trainer.device) % len(batch[0])
        try:
            take_step(trainer, [tuple(part[copies] for part in batch)])
            synchronize(trainer.device)
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            trainer.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        return True

    return fits
