"""DataLoader workers that end with their parent process. A killed worker is distinguished from a failing one,
and a loader that makes no progress is stopped."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from src.config import UserError
from src.data.transfer import AHEAD, SHARED, came_by_value, lose_nothing, received, send
from src.machine import exit_with_parent

CHECK = 5.0  # seconds between two checks of the workers
PATIENCE = 600.0  # seconds without a batch in which no worker reads or computes
BUSY = 0.05  # of a core: monitoring the parent process takes less


class LoaderKilled(RuntimeError):
    """A loader worker was killed."""


class Loader(DataLoader):
    """A `DataLoader` that raises `LoaderKilled` if a worker was killed. What torch raises then depends on the
    moment: a RuntimeError, or an error of the connection through which the worker sent a batch."""

    def __iter__(self) -> Iterator[Any]:
        return _watched(super().__iter__())


def create_loader(dataset: Dataset, sampler: Sampler, workers: int, pin_memory: bool) -> DataLoader:
    """A DataLoader of the whole batches that the sampler lists and the dataset builds.

    Iterating raises `LoaderKilled` if a worker was killed, and `UserError` if no worker makes progress for
    ten minutes while a batch is awaited.
    """
    context = ("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn") if workers else None
    return Loader(
        dataset,
        sampler=sampler,
        batch_size=None,  # the sampler yields whole batches: one fetch, one buffer
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        collate_fn=send,
        multiprocessing_context=context,  # forkserver, Python 3.14's default, imports everything again
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=functools.partial(_begin, os.getpid()) if workers else None,
        generator=torch.Generator(),  # its own: the global one must not advance when an epoch is resumed
    )


def _begin(parent: int, _: int) -> None:
    exit_with_parent(parent)
    lose_nothing()


def _watched(batches: Iterator[Any]) -> Iterator[Any]:
    workers = getattr(batches, "_workers", ())
    watch = Watchdog(workers)
    try:
        for batch in watch.over(batches):
            if came_by_value(batch):
                _say_by_value(len(workers))
            yield received(batch)
    except UserError as error:  # torch puts the worker's traceback before the message
        raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].strip()) from error
    except (RuntimeError, OSError, EOFError) as error:
        for worker in workers:
            worker.join(timeout=0.1)  # it may be exiting
        if watch.barked:
            raise UserError(
                f"the processes that load images did nothing for {PATIENCE / 60:g} minutes, and were ended: "
                f"see whether the disk answers; runtime.workers=0 does without them. The same command goes on"
            ) from error
        if any((worker.exitcode or 0) < 0 for worker in workers):
            raise LoaderKilled("a process that loads images was killed") from error
        raise


@functools.cache  # print once
def _say_by_value(workers: int) -> None:
    print(
        f"{SHARED} is too small for the batches of {workers} loader process(es): they come through pipes, "
        f"which is slower (docker run --shm-size=2g gives more of it)",
        flush=True,
    )


class Watchdog:
    """Kills the workers of a loader if none made progress for `PATIENCE` seconds while a batch is awaited;
    the loader then raises. A slow disk does not count as idle: workers that read or compute are left
    alone."""

    def __init__(self, workers: Sequence[Any]):
        self.workers = workers
        self.waiting, self.barked, self.ended = False, False, threading.Event()

    def over(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Iterate over the batches while the watchdog runs."""
        if self.workers:
            threading.Thread(target=self._watch, daemon=True).start()
        try:
            while True:
                self.waiting = True
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                self.waiting = False
                yield batch
        finally:
            self.ended.set()

    def _watch(self) -> None:
        silent, before = 0.0, self._done()  # counted in checks: a paused process misses none
        while not self.ended.wait(CHECK):
            now = self._done()
            idle = now[0] - before[0] < BUSY * CHECK and now[1] == before[1]
            silent, before = (silent + CHECK if self.waiting and idle else 0.0), now
            if silent >= PATIENCE:
                self.barked = True
                for worker in self.workers:
                    worker.kill()
                return

    def _done(self) -> tuple[float, int]:
        """CPU seconds and bytes read so far by all workers; 0 where the system does not report them."""
        seconds, read = 0.0, 0
        for worker in self.workers:
            try:
                process = Path("/proc", str(worker.pid))
                times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
                lines = (process / "io").read_text().splitlines()
            except (OSError, ValueError):
                continue
            seconds += sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
            read += sum(int(line.split()[1]) for line in lines if line.startswith(("rchar", "read_bytes")))
        return seconds, read
