"""Advisory file locks (flock): only one process at a time works on an artefact.

The operating system releases a lock when its process ends, however it ends. Forked workers share the locks of
their parent.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from src.config import UserError

PAUSE = 0.2  # seconds between two attempts
REMIND = 600.0  # seconds between two messages while waiting
TAKEN = (errno.EAGAIN, errno.EACCES)  # locked by another process; other errors mean no lock support

_held: set[Path] = set()  # locks of this process, or of its parent before the fork
_without: set[Path] = set()  # folders without lock support that were already reported


@contextlib.contextmanager
def alone(*places: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the locks of these files or folders, which need not exist; yields whether it had to wait.

    After a wait, the other process may already have done the work. While waiting, the lock's holder is
    printed; with `wait=False`, `UserError` is raised instead. A lock already held by this process or its
    parent is neither an error nor a wait.
    """
    ordered = sorted({Path(os.path.abspath(place)) for place in places})  # one order prevents deadlocks
    with contextlib.ExitStack() as stack:
        yield any([stack.enter_context(_hold(place, wait)) for place in ordered])


@contextlib.contextmanager
def _hold(place: Path, wait: bool) -> Iterator[bool]:
    if place in _held:
        yield False
        return
    handle, waited = _acquire(place, wait)
    _held.add(place)
    try:
        yield waited
    finally:
        _held.discard(place)
        if handle is not None:
            _release(place, handle)


def lock_file(place: Path) -> Path:
    """The lock file of an artefact, beside it: a folder may be moved aside while its lock is held."""
    return place.with_name(f".{place.name}.lock")


def _acquire(place: Path, wait: bool) -> tuple[IO[str] | None, bool]:
    """The open lock file, and whether it had to wait; the file is None if locks are unavailable."""
    path, began, said = lock_file(place), time.monotonic(), float("-inf")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - open for as long as it is held
        except OSError:
            return None, False  # the write that follows reports the error
        try:
            _flock(handle)
        except OSError as error:
            holder = _holder(handle)
            handle.close()
            if error.errno not in TAKEN:
                _say_without(path, error)
                return None, False
            if not wait:
                raise UserError(f"{place}: {holder} is at work on it; wait for its end, or stop it") from None
            if time.monotonic() - said >= REMIND:
                still = "still " if said > began else ""
                print(f"{place}: {holder} is at work on it; {still}waiting for its end", flush=True)
                said = time.monotonic()
            time.sleep(PAUSE)
            continue
        if _is_at(path, handle):
            break
        handle.close()  # the previous holder has removed the file meanwhile
    handle.truncate(0)
    me = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%H:%M:%S}"}
    json.dump({**me, "command": " ".join(sys.argv)[:200]}, handle)
    handle.flush()
    return handle, said >= began


def _flock(handle: IO[str]) -> None:
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _release(place: Path, handle: IO[str]) -> None:
    """Remove the lock file, then unlock; closing it is not enough, since forked workers have it open too."""
    import fcntl

    with contextlib.suppress(OSError):
        if _is_at(lock_file(place), handle):
            lock_file(place).unlink()
        fcntl.flock(handle, fcntl.LOCK_UN)
    handle.close()


def _is_at(path: Path, handle: IO[str]) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle.fileno()))
    except OSError:
        return False


def _holder(handle: IO[str]) -> str:
    """A description of the process that holds the lock."""
    try:
        handle.seek(0)
        who = json.load(handle)
        return f"process {who['pid']} on {who['host']} (`{who['command']}`, since {who['since']})"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


def _say_without(path: Path, error: OSError) -> None:
    if path.parent not in _without:
        _without.add(path.parent)
        print(
            f"{path.parent}: this file system has no locks ({error.strerror}); run no two commands "
            f"on one experiment at once"
        )
