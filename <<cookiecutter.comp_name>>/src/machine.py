"""The machine's resources: CPU cores, memory, and how many threads each process should use."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from src.config import Config


def limit_threads(config: Config) -> None:
    """Set the number of threads of one process, before numpy or torch is imported.

    More threads than cores compete for them, and the same work then takes many times as long.
    """
    threads = str(config.runtime.threads or max(1, cpu_count() // jobs_on_cpu(config)))
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, threads)
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it uses the network


def jobs_on_cpu(config: Config) -> int:
    """The number of folds to train in parallel without a GPU."""
    return min(config.runtime.jobs or cpu_count(), max(1, len(config.selected_folds)))


def cpu_count() -> int:
    """Number of CPU cores this process may use; containers and Kaggle allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_available() -> int | None:
    """Available memory in bytes (free, or reclaimable at once); None if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    said = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines)}
    return int(said["MemAvailable"]) * 1024 if "MemAvailable" in said else None


def exit_with_parent(parent: int, *_: object) -> None:
    """End this process as soon as `parent`, the process that forked it, has ended.

    A killed stage must not leave workers that keep writing, or that keep a pipe open which another process
    reads to its end. torch's own check in its loader workers is not enough: it takes whatever process is the
    parent when it starts, so a worker whose parent has ended before that lives on.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
