"""A kernel run at home as Kaggle would: no network, input read-only, a working folder of limited size, an
empty home, nothing of the environment, and the project out of sight.

With Linux namespaces (`unshare`, no root needed) all of this is enforced. Elsewhere a weaker stand-in is
used: sockets raise, home and environment are empty, and the project stays where it is.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WORKING = 20_000  # MiB that Kaggle gives /kaggle/working
KEPT = ("PATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
ENTER = ("unshare", "--map-root-user", "--net", "--mount", "--ipc", "--fork")

# $1 stage, $2 project, $3 input, $4 out, $5 MiB, then the command. What is masked is bound elsewhere first.
SCRIPT = """
set -eu
stage=$1 project=$2 input=$3 out=$4 size=$5; shift 5
mount -t tmpfs -o size=16m tmpfs "$stage"
mkdir "$stage/input" "$stage/out" "$stage/working" "$stage/home" "$stage/venv" "$stage/tmp"
mount --bind "$input" "$stage/input"; mount -o remount,bind,ro "$stage/input"
mount --bind "$out" "$stage/out"
mount -t tmpfs -o size="$size"m tmpfs "$stage/working"
mount -t tmpfs tmpfs "$stage/tmp"
if [ -d "$project/.venv" ]; then mount --bind "$project/.venv" "$stage/venv"; fi
mount -t tmpfs tmpfs "$project"
if [ -e "$stage/venv/bin" ]; then mkdir "$project/.venv"; mount --bind "$stage/venv" "$project/.venv"; fi
cp "$stage/out/script.py" "$stage/working/script.py"
cd "$stage/working"
status=0
"$@" || status=$?
rm -f script.py
du -sk . | cut -f1 > "$stage/out/kib"
cp -r . "$stage/out/working"
exit $status
"""
NO_NETWORK = """
import socket
def refuse(*_, **__):
    raise OSError("the rehearsal has no network, as the kernel will have none")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
"""


@dataclass(frozen=True)
class Outcome:
    """How a run went: exit status (124: too slow), what it said, seconds, peak MiB, MiB left in the working
    folder, and where that lies now."""

    status: int
    said: str
    seconds: float
    memory: float
    disk: float
    working: Path


@functools.cache
def namespaces() -> bool:
    """Whether this machine lets us make some."""
    if shutil.which(ENTER[0]) is None:
        return False
    try:
        command = [*ENTER, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def run_kernel(
    script: Path,
    mount: Path,
    out: Path,
    project: Path,
    limit: float,
    working_mib: int = WORKING,
    isolated: bool | None = None,
    absent: Iterable[str] = (),
    **variables: str,
) -> Outcome:
    """Run a kernel's script with `mount` as Kaggle's input folder; what it leaves lies in `out`/working.

    `isolated` None: with namespaces where there are any. Modules in `absent` cannot be imported by the script
    or by `src`. `variables` are set beside Kaggle's own.
    """
    isolated = namespaces() if isolated is None else isolated
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copy(script, out / "script.py")
    with tempfile.TemporaryDirectory(prefix="kernel-") as name:
        stage = Path(name)
        environment = {key: os.environ[key] for key in KEPT if key in os.environ} | variables
        environment |= {"HOME": str(stage / "home"), "TMPDIR": str(stage / "tmp")}
        environment |= {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"KAGGLE_WORKING_DIR": str(stage / "working")}
        python = [sys.executable, "-c", MEASURED, " ".join(sorted(absent)), "script.py"]
        if isolated:
            environment["KAGGLE_INPUT_DIR"] = str(stage / "input")
            places = [stage, project, mount, out]
            sizes = [str(place.resolve()) for place in places] + [str(working_mib)]
            command = [*ENTER, "sh", "-c", SCRIPT, "sh", *sizes, *python]
            return _run(command, stage, environment, out, limit)
        for folder in ("home", "tmp", "working", "site"):
            (stage / folder).mkdir()
        (stage / "site" / "sitecustomize.py").write_text(NO_NETWORK)
        environment |= {"KAGGLE_INPUT_DIR": str(mount.resolve()), "PYTHONPATH": str(stage / "site")}
        shutil.copy(script, stage / "working" / "script.py")
        outcome = _run(python, stage / "working", environment, out, limit)
        (stage / "working" / "script.py").unlink()
        shutil.copytree(stage / "working", out / "working")
        size = sum(path.stat().st_size for path in (out / "working").rglob("*") if path.is_file())
        return Outcome(
            outcome.status, outcome.said, outcome.seconds, outcome.memory, size / 2**20, out / "working"
        )


# Runs the script without the modules of $1, and says its peak memory in KiB behind everything else. What
# libraries import for themselves is their affair: other versions need other things.
MEASURED = """
import builtins, resource, runpy, sys
absent, sys.argv, plain = set(sys.argv[1].split()), sys.argv[2:], builtins.__import__
def load(name, globals=None, locals=None, fromlist=(), level=0):
    asks = (globals or {}).get("__name__", "").partition(".")[0]
    if level == 0 and name.partition(".")[0] in absent and asks in ("__main__", "src"):
        raise ModuleNotFoundError(f"No module named {name!r} in Kaggle's image", name=name)
    return plain(name, globals, locals, fromlist, level)
builtins.__import__ = load
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    sys.stdout.flush(); sys.stderr.flush()
    print("\\npeak KiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""


def _run(command: list[str], cwd: Path, environment: dict[str, str], out: Path, limit: float) -> Outcome:
    began = time.monotonic()
    log = out / "log.txt"
    with open(log, "wb") as handle:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=handle, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            status = 124
    said = log.read_text(encoding="utf-8", errors="replace")
    before, _, after = said.rpartition("\npeak KiB ")  # an exception is told behind it
    peak, _, after = after.partition("\n") if before or after != said else ("", "", said)
    kib = out / "kib"
    disk = int(kib.read_text()) / 1024 if kib.exists() else 0.0
    memory = int(peak) / 1024 if peak.strip().isdigit() else 0.0
    return Outcome(status, before + after, time.monotonic() - began, memory, disk, out / "working")
