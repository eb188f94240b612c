"""How a batch gets from the process that loads it to the one that trains on it: through shared memory, or by
value through a pipe where `/dev/shm` is too small (64 MB is Docker's default). Slower, and the same batch."""

from __future__ import annotations

import multiprocessing.queues
import os
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_convert, get_worker_info

SHARED = "/dev/shm"
AHEAD = 2  # batches that a loader prepares a worker (torch's prefetch_factor)
HELD = 2  # batches that the training may hold: one in use, one on its way to a GPU
_SPARE = 2  # of what that needs: other processes take from the same memory at the same time


@dataclass(frozen=True)
class ByValue:
    """A tensor as an array of its memory, which is pickled whole; `order` are its axes there, outermost
    first."""

    array: np.ndarray
    order: tuple[int, ...]


def send(batch: Any) -> Any:
    """A loader's `collate_fn`: tensors as they are where shared memory holds all that is under way, else by
    value. Outside of a worker nothing is sent."""
    batch, worker = default_convert(batch), get_worker_info()
    if worker is None:
        return batch
    free = shared_memory_free()
    need = _SPARE * (AHEAD * worker.num_workers + HELD) * size(batch)
    return batch if free is None or need <= free else by_value(batch)


def shared_memory_free() -> int | None:
    """Bytes of shared memory that are free; None where the system does not say."""
    try:
        return shutil.disk_usage(SHARED).free
    except OSError:
        return None


def size(batch: Any) -> int:
    """Bytes of a batch's tensors."""
    if isinstance(batch, torch.Tensor):
        return batch.nbytes
    return sum(map(size, batch)) if isinstance(batch, list | tuple) else 0


def by_value(batch: Any) -> Any:
    """The batch with `ByValue` in place of its tensors."""
    if isinstance(batch, torch.Tensor):
        order = sorted(range(batch.ndim), key=batch.stride, reverse=True)
        return ByValue(batch.permute(order).numpy(), tuple(order))
    return type(batch)(map(by_value, batch)) if isinstance(batch, list | tuple) else batch


def received(batch: Any) -> Any:
    """The inverse of `by_value`: the same tensors with the same strides."""
    if isinstance(batch, ByValue):
        return torch.from_numpy(batch.array).permute(np.argsort(batch.order).tolist())
    return type(batch)(map(received, batch)) if isinstance(batch, list | tuple) else batch


def came_by_value(batch: Any) -> bool:
    """Whether `received` has anything to do."""
    if isinstance(batch, list | tuple):
        return any(map(came_by_value, batch))
    return isinstance(batch, ByValue)


def lose_nothing() -> None:
    """Have this worker send by value what it could not put into shared memory. Torch's own would drop it, and
    whoever trains would wait for that batch for ever."""
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_again


def _send_again(queue: multiprocessing.queues.Queue, error: Exception, item: Any) -> None:
    """In place of the queue's own; `item` is (number, batch), or None at the end."""
    number, batch = item if isinstance(item, tuple) and len(item) == 2 else (None, None)
    if number is None or came_by_value(
        batch
    ):  # nothing else to try; the training sees that this process ended
        print(f"a loader process cannot hand over its batch: {error}", flush=True)
        os._exit(1)
    queue.put((number, by_value(batch)))
