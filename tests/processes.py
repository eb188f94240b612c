"""Subprocesses in tests (make, git, python, pytest), in an environment that does not depend on the caller's.

The template's tests use this module too; its tests/template/test_commands.py checks that tests start
processes in no other way."""

from __future__ import annotations

import fnmatch
import os
import signal
import subprocess
import tempfile
import threading

# Variables that an outer make, pytest, Python, shell, launcher or account would pass on to an inner process,
# including variables of the Makefile: `make test ARGS=...` puts ARGS into the environment.
DROPPED = (
    *("MAKE*", "MFLAGS", "GNUMAKEFLAGS", "PYTEST_*", "PYTHON*", "GIT_*", "KAGGLE_*", "WANDB_*", "NNTRICKS_*"),
    *("LC_*", "LANG", "LANGUAGE", "XDG_*", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PY_COLORS"),
    *("RANK", "LOCAL_*", "WORLD_SIZE", "MASTER_*", "GROUP_*", "ROLE_*", "TORCHELASTIC_*"),
    *("ARGS", "EXP", "TRY", "KEYS", "NAME", "MINUTES", "GPUS", "LAUNCHER", "PUBLIC", "PRIVATE", "SUBMIT"),
    *("PY", "READY", "CACHED", "TRACEBACK"),
)
FIXED = {
    "LC_ALL": "C",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "GIT_CONFIG_NOSYSTEM": "1",
    "WANDB_MODE": "disabled",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}
# Caches are kept: they change no result, and some are slow to fill.
CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
HOME = tempfile.TemporaryDirectory(prefix="nntricks-home-", ignore_cleanup_errors=True)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without the dropped variables, with an empty home and with `changes`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in DROPPED)
    }
    if not os.path.isdir(kept.get("TMPDIR", "/")):
        del kept["TMPDIR"]
    if os.access(CACHE, os.W_OK):
        kept["XDG_CACHE_HOME"] = CACHE
    return {**kept, **FIXED, "HOME": HOME.name, **changes}


def isolate() -> None:
    """Apply that environment to this process, for code a test calls directly; pytest keeps its own variables.

    Ctrl-C is enabled again, here and in child processes: a shell's `make test &` makes its children ignore
    it.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    clean = environment()
    for name in set(os.environ) - set(clean):
        if not name.startswith("PYTEST_"):
            del os.environ[name]
    os.environ.update(clean)


def run(command: list, **options) -> subprocess.CompletedProcess[str]:
    """Run a command, wait for it and capture its output; options as for `subprocess.run`."""
    text = {"encoding": "utf-8", "errors": "backslashreplace"}
    defaults = {"env": environment(), "capture_output": True, **text}
    return subprocess.run([str(word) for word in command], **{**defaults, **options})


def start(command: list, **options) -> subprocess.Popen:
    """Start a command without waiting for it; options as for `subprocess.Popen`."""
    return subprocess.Popen([str(word) for word in command], **{"env": environment(), **options})
