"""One process at a time works on an artefact.

The locks are advisory and the operating system's own (flock): one ends with the process that holds it,
however that ends. What a process has locked, its forked workers have too.
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

PAUSE = 0.2  # seconds between two tries
REMIND = 600.0  # seconds between two lines while waiting
TAKEN = (errno.EAGAIN, errno.EACCES)  # by another process; any other error: this file system has no locks

_held: set[Path] = set()  # by this process, or by the one that forked it
_without: set[Path] = set()  # folders whose file system has no locks, once that is said


@contextlib.contextmanager
def alone(*places: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the locks of these files or folders, which need not be there yet; gives whether it had to wait for
    another process, whose work may then be found done.

    Waits for others and says for whom; with `wait=False` raises `UserError` instead. To hold what is held
    already, by this process or the one that forked it, is no error and no wait.
    """
    ordered = sorted({Path(os.path.abspath(place)) for place in places})  # alike in all, or two could wait
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
    """The lock lies beside what it is for: a folder may be moved aside while its lock is held."""
    return place.with_name(f".{place.name}.lock")


def _acquire(place: Path, wait: bool) -> tuple[IO[str] | None, bool]:
    """The lock's open file, and whether it had to be waited for; None where there are no locks."""
    path, began, said = lock_file(place), time.monotonic(), float("-inf")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - open for as long as it is held
        except OSError:
            return None, False  # whoever writes here is told what is wrong
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
        handle.close()  # whoever held it has removed it meanwhile
    handle.truncate(0)
    me = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%H:%M:%S}"}
    json.dump({**me, "command": " ".join(sys.argv)[:200]}, handle)
    handle.flush()
    return handle, said >= began


def _flock(handle: IO[str]) -> None:
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _release(place: Path, handle: IO[str]) -> None:
    """Remove the lock's file, then let go; not by closing alone, for a forked worker has it open too."""
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
    """Who holds the lock, in words."""
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
