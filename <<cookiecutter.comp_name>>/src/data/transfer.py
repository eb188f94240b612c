"""Transfer of batches from loader workers to the training process: through shared memory, or by value through
a pipe if `/dev/shm` is too small (64 MB is Docker's default). The pipe is slower; the batch is the same."""

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
AHEAD = 2  # batches prefetched per worker (torch's prefetch_factor)
HELD = 2  # batches held by the training: one in use, one being copied to a GPU
_SPARE = 2  # safety factor: other processes use the same memory


@dataclass(frozen=True)
class ByValue:
    """A tensor as a numpy array, which is pickled entirely; `order` lists its axes in memory order, outermost
    first."""

    array: np.ndarray
    order: tuple[int, ...]


def send(batch: Any) -> Any:
    """The loader's `collate_fn`: keep tensors (shared memory) if shared memory can hold all batches in
    flight, otherwise convert them to `ByValue`. Outside a worker the batch is unchanged."""
    batch, worker = default_convert(batch), get_worker_info()
    if worker is None:
        return batch
    free = shared_memory_free()
    need = _SPARE * (AHEAD * worker.num_workers + HELD) * size(batch)
    return batch if free is None or need <= free else by_value(batch)


def shared_memory_free() -> int | None:
    """Free bytes of shared memory; None if unknown."""
    try:
        return shutil.disk_usage(SHARED).free
    except OSError:
        return None


def size(batch: Any) -> int:
    """Bytes of the tensors of a batch."""
    if isinstance(batch, torch.Tensor):
        return batch.nbytes
    return sum(map(size, batch)) if isinstance(batch, list | tuple) else 0


def by_value(batch: Any) -> Any:
    """Replace the tensors of a batch by `ByValue`."""
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
    """Whether a batch contains `ByValue`."""
    if isinstance(batch, list | tuple):
        return any(map(came_by_value, batch))
    return isinstance(batch, ByValue)


def lose_nothing() -> None:
    """In this worker, send a batch by value if shared memory fails. Torch's own queue would drop the batch,
    and the training would wait for it forever."""
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_again


def _send_again(queue: multiprocessing.queues.Queue, error: Exception, item: Any) -> None:
    """Error handler of the queue; `item` is (number, batch), or None at the end."""
    number, batch = item if isinstance(item, tuple) and len(item) == 2 else (None, None)
    if number is None or came_by_value(
        batch
    ):  # there is no other way to send it; the training detects that this process ended
        print(f"a loader process cannot hand over its batch: {error}", flush=True)
        os._exit(1)
    queue.put((number, by_value(batch)))
