"""The entry point of every command: errors end in one sentence and an exit status.

Exit status: 0 done or up to date, 1 an error of the program itself, 2 a mistake that the user can fix, 130
interrupted, 141 the reader of the output has gone. The traceback of a program error is written to
`logs/error-<time>-<process>.txt`, or to the terminal with TRACEBACK=1 in the environment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import select
import shlex
import sys
import traceback
from collections.abc import Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path

from src.config import UserError

_PROJECT = Path(__file__).resolve().parents[1]
SHOW = "TRACEBACK"
_PACKAGES = ("torch", "timm", "numpy", "pandas", "pydantic")  # an error report lists their versions
MEMORY = ("MemoryError", "OutOfMemoryError")  # Python's, and torch's for GPU memory
TORCH = "Original Traceback (most recent call last):"  # torch, from a loader process
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOST = 141  # the shell's status of a process that wrote to a closed pipe


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Context manager that runs a command; an exception becomes one sentence and an exit status.

    Standard output is flushed before the process ends.
    """
    use_utf8()
    prepare_streams()
    status: int | str | None = 0
    try:
        yield
    except SystemExit as stop:
        if stop.code or not (status := lost_output()):
            raise
    except UserError as error:
        status = fail(str(error))
    except KeyboardInterrupt:
        say("\ninterrupted; the same command goes on from where it stopped")
        status = 130
    except Exception as error:
        status = lost_output(error) or report(error)
    if status := status or lost_output():
        sys.exit(status)


def fail(message: str) -> int:
    """Print one sentence for a user's mistake and return its exit status, 2."""
    say(f"error: {message}")
    return 2


def say(line: str) -> None:
    """Print to stderr; an error is ignored, since a closed or full stderr leaves nowhere to report it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def report(error: BaseException) -> int:
    """Report an unexpected error in one sentence, write its traceback to a file, return the exit status.

    Running out of memory or disk space is reported as a user's problem (status 2), without a traceback.
    """
    lines = str(error).strip().splitlines() or [""]
    told = lines[0] if TORCH not in lines else lines[-1]
    what = f"{type(error).__name__}: {told[:300]}"
    if type(error).__name__ in MEMORY:
        return fail(
            f"memory ran out ({what}); lower train.batch_size, data.image_size, runtime.jobs or "
            f"runtime.workers and run the same command again"
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        return fail(
            f"{error.filename or 'the output'}: cannot be written ({error.strerror}); free some space and "
            f"run the same command again"
        )
    if os.environ.get(SHOW):
        say("".join(traceback.format_exception(error)))
        where = "its traceback is above"
    else:
        where = _write_report(error)
    say(f"error: `{_command()}` met an error of the program itself: {what}; {where}")
    return 1


def _write_report(error: BaseException) -> str:
    """Write an error report for the maintainer; returns a phrase that says where it is."""
    now = datetime.now()
    lines = [f"{now:%Y-%m-%d %H:%M:%S} in {os.getcwd()}", _command(), f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            lines.append(f"{name} {metadata.version(name)}")
    lines += [platform.platform(), "", *traceback.format_exception(error)]
    path = _PROJECT / "logs" / f"error-{now:%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines), encoding="utf-8", errors="backslashreplace")
    except OSError as trouble:
        say("\n".join(lines))
        return f"the report is above ({path} cannot be written: {trouble.strerror})"
    return f"the full report is in {path}"


def _command() -> str:
    return shlex.join(sys.orig_argv[1:] if _is_this_process() else sys.argv)


def lost_output(error: Exception | None = None) -> int:
    """The exit status if standard output can no longer be written, else 0.

    That is the case for `make config | head -1`, or a log on a full disk. `error` is the exception being
    handled: a `BrokenPipeError` counts only if the reader of the output is gone.
    """
    try:
        sys.stdout.flush()
        if not (isinstance(error, BrokenPipeError) and _reader_gone()):  # `python -u` buffers nothing
            return 0
        status = _LOST
    except BrokenPipeError:
        status = _LOST
    except OSError as trouble:
        status = _LOST if trouble.errno == errno.EIO else 2  # EIO: the terminal is gone
        say(f"error: the output cannot be written ({trouble.strerror}); send it elsewhere and run it again")
    with contextlib.suppress(OSError):  # else Python flushes again at exit and prints an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _reader_gone() -> bool:
    with contextlib.suppress(OSError, AttributeError):
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in output.poll(0))
    return False


def prepare_streams() -> None:
    """Escape (\\uXXXX) what a terminal or log cannot encode; replace closed streams with os.devnull."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - to the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def use_utf8() -> None:
    """Restart in Python's UTF-8 mode if the locale has another encoding.

    File names and texts are UTF-8, whatever the terminal shows.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    if _is_this_process():
        os.environ["PYTHONUTF8"] = "1"
        if sys.stdout is not None:
            os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
        os.execv(sys.executable, sys.orig_argv)


def _is_this_process() -> bool:
    """Whether this command is the Python process itself; in a test it runs inside another one."""
    started = getattr(sys.modules["__main__"], "__file__", None)
    return started is not None and os.path.realpath(started) == os.path.realpath(sys.argv[0])
