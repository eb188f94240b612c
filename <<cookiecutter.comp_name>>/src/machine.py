"""What this machine gives: cores, and how many threads each process should take of them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from src.config import Config


def limit_threads(config: Config) -> None:
    """Set the threads of one process before numpy or torch is imported.

    More threads than cores get in each other's way: the same work then takes many times as long.
    """
    threads = str(config.runtime.threads or max(1, cpu_count() // jobs_on_cpu(config)))
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, threads)
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network at import otherwise


def jobs_on_cpu(config: Config) -> int:
    """How many folds to work on side by side without a GPU."""
    return min(config.runtime.jobs or cpu_count(), max(1, len(config.selected_folds)))


def cpu_count() -> int:
    """Cores this process may use; containers and Kaggle give fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_available() -> int | None:
    """Bytes of memory that are free or can be freed at once; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    said = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines)}
    return int(said["MemAvailable"]) * 1024 if "MemAvailable" in said else None


def exit_with_parent(parent: int, *_: object) -> None:
    """End this process as soon as `parent`, the process that forked it, is gone: a killed stage must leave
    nobody behind who writes on, or keeps a pipe open that somebody reads to its end. torch's own watch over
    its loaders takes whoever is there when it begins for the parent, and so outlives one that was quicker."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
