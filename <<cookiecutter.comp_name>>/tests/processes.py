"""Other programs in a test (make, git, python, pytest), in an environment that is the same whoever runs it.

The template's tests use this too, and its tests/test_commands.py looks that no test starts a process in any
other way.
"""

from __future__ import annotations

import fnmatch
import os
import signal
import subprocess
import tempfile
import threading

# What an outer make, pytest, Python, shell, launcher or account would otherwise hand on to an inner one. The
# variables of a Makefile too: `make test ARGS=...` puts ARGS into the environment.
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
# Caches hold nothing that changes a result, and some take long to fill.
CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
HOME = tempfile.TemporaryDirectory(prefix="nntricks-home-", ignore_cleanup_errors=True)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what is dropped, with an empty home, and with these changes."""
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
    """Give this process that environment, for what a test calls within it; pytest keeps its own variables.

    Ctrl-C is heard again, here and by what is started: a shell's `make test &` has its children ignore it.
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
    """Run a command to its end and keep what it prints; options as for `subprocess.run`."""
    text = {"encoding": "utf-8", "errors": "backslashreplace"}
    defaults = {"env": environment(), "capture_output": True, **text}
    return subprocess.run([str(word) for word in command], **{**defaults, **options})


def start(command: list, **options) -> subprocess.Popen:
    """Start a command and do not wait for it; options as for `subprocess.Popen`."""
    return subprocess.Popen([str(word) for word in command], **{"env": environment(), **options})
