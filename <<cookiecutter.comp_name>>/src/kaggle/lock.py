"""One command at a time: an advisory lock below kaggle/ that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator

from src.artifacts import writing
from src.config import Config, UserError

LIMIT = 1800.0  # seconds to wait for another command; a submission is sent and listed within minutes
LOOK_EVERY = 0.2


@contextlib.contextmanager
def only_one(config: Config, what: str, wait: float = LIMIT) -> Iterator[None]:
    """Hold the lock `what` of this project; waits for a process that holds it, and raises `UserError` where
    that takes longer than `wait` seconds."""
    path = config.root / "kaggle" / f".{what}.lock"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a")  # noqa: SIM115
    with handle:
        began, said = time.monotonic(), False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - began >= wait:
                    raise UserError(
                        f"{path}: another command of this project is at the same work and holds this lock; "
                        f"run this one again when that one has ended"
                    ) from None
            if not said:
                print(f"{path}: another command holds this lock; waiting for it to end", flush=True)
            said = True
            time.sleep(LOOK_EVERY)
        yield
