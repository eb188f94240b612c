"""Processes that load batches: they end with the process they load for, and one that is killed is told from
one that fails."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from src.machine import live_with


class LoaderKilled(RuntimeError):
    """A process that loads images was killed."""


class Loader(DataLoader):
    """A `DataLoader` that says when one of its processes was killed. What torch raises then depends on the
    moment: a RuntimeError, or an error of the connection over which the process was handing a batch."""

    def __iter__(self) -> Iterator[Any]:
        return _watched(super().__iter__())


def create_loader(dataset: Dataset, sampler: Sampler, workers: int, pin_memory: bool) -> DataLoader:
    """A loader of the whole batches that the sampler names and the data set makes.

    Raises `LoaderKilled`, while it is read, where one of its processes was killed.
    """
    context = ("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn") if workers else None
    return Loader(
        dataset,
        sampler=sampler,
        batch_size=None,  # a sampler of whole batches: one fetch, one buffer
        num_workers=workers,
        multiprocessing_context=context,  # forkserver, Python 3.14's default, imports everything again: 15 s
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=functools.partial(live_with, os.getpid()) if workers else None,
        generator=torch.Generator(),  # its own: the global one must not move where an epoch is gone on with
    )


def _watched(batches: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from batches
    except (RuntimeError, OSError, EOFError) as error:
        workers = getattr(batches, "_workers", ())
        for worker in workers:
            worker.join(timeout=0.1)  # it may be dying
        if any((worker.exitcode or 0) < 0 for worker in workers):
            raise LoaderKilled("a process that loads images was killed") from error
        raise
