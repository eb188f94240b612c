"""A sandbox that runs a kernel locally under Kaggle's conditions.

There is no network, the input is read-only, the working folder is limited in size, the home folder is empty
and the environment is cleared. Of this machine only the system's and Python's files are visible. Linux
namespaces (`unshare`, without root) enforce all of this. Elsewhere a weaker substitute is used: sockets
raise, home and environment are empty, the input is a copy, and local files stay visible.
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

WORKING = 20_000  # MiB of /kaggle/working on Kaggle
_KEPT = ("PATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
ENTER = ("unshare", "--map-root-user", "--net", "--mount", "--ipc", "--fork")
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "opt", "etc", "dev", "proc", "sys")
SYSTEM += ("nix", "run/current-system", "run/opengl-driver")  # for NixOS

# $1 stage, $2 project, $3 input, $4 out, $5 MiB, $6 the system's folders, $7 the number of folders that
# follow: Python's, and among them the project, which is hidden except for Python's folders after it. Then
# follows the command, which sees only these folders and Kaggle's own.
_SCRIPT = """
set -eu
stage=$1 project=$2 input=$3 out=$4 size=$5 system=$6 count=$7; shift 7
mount -t tmpfs -o size=16m tmpfs "$stage"
root=$stage/root
mkdir -p "$root/kaggle/input" "$root/kaggle/working" "$root/kaggle/home" "$root/tmp"
mount -t tmpfs tmpfs "$root/tmp"  # before the folders of Python, which may lie below it
for name in $system; do
    if [ -L "/$name" ]; then mkdir -p "$(dirname "$root/$name")"; cp -P "/$name" "$root/$name"
    elif [ -d "/$name" ]; then mkdir -p "$root/$name"; mount --rbind "/$name" "$root/$name"; fi
done
while [ "$count" -gt 0 ]; do
    if [ "$1" != "$project" ]; then mkdir -p "$root$1"; mount --rbind "$1" "$root$1"
    elif [ -d "$root$1" ]; then mount -t tmpfs tmpfs "$root$1"; fi
    shift; count=$((count - 1))
done
mount --bind "$input" "$root/kaggle/input"
mount -o remount,bind,ro "$root/kaggle/input" 2>/dev/null ||  # what locks a disk's flags wants them named
    mount -o remount,bind,ro,nosuid,nodev "$root/kaggle/input" 2>/dev/null ||
    mount -o remount,bind,ro,nosuid,nodev,noexec "$root/kaggle/input"
mount -t tmpfs -o size="$size"m tmpfs "$root/kaggle/working"
cp "$out/script.py" "$root/kaggle/working/script.py"
status=0
chroot "$root" /bin/sh -c 'cd /kaggle/working && exec "$@"' sh "$@" || status=$?
cd "$root/kaggle/working"
rm -f script.py
du -sk . | cut -f1 > "$out/kib"
cp -r . "$out/working"
exit $status
"""
NO_NETWORK = """
import socket
def refuse(*_, **__):
    raise OSError("the rehearsal has no network, as the kernel will have none")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
"""


@dataclass(frozen=True)
class KernelResult:
    """The result of a run.

    Exit status (124: timed out), output, seconds, peak memory in MiB, MiB left in the working folder, and the
    path of a copy of that folder.
    """

    status: int
    said: str
    seconds: float
    memory: float
    disk: float
    working: Path


@functools.cache
def namespaces() -> bool:
    """Whether this machine supports the isolation with namespaces; tested once with a command that does
    nothing."""
    if shutil.which(ENTER[0]) is None:
        return False
    with tempfile.TemporaryDirectory(prefix="walls-") as name:
        folders = [Path(name, part) for part in ("stage", "project", "input", "out")]
        for folder in folders:
            folder.mkdir()
        (folders[-1] / "script.py").touch()
        command = [*walls(*folders, 1), sys.executable, "-c", "pass"]
        try:
            return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def walls(stage: Path, project: Path, mount: Path, out: Path, working_mib: int) -> list[str]:
    """The command prefix that runs a command with only Kaggle's, the system's and Python's folders
    visible."""
    places = [place.resolve() for place in (stage, project, mount, out)]
    kept = sorted(python_folders(), key=lambda folder: folder.is_relative_to(places[1]))
    inside = sum(folder.is_relative_to(places[1]) for folder in kept)
    kept.insert(len(kept) - inside, places[1])
    rest = [working_mib, " ".join(SYSTEM), len(kept), *kept]
    return [*ENTER, "sh", "-c", _SCRIPT, "sh", *map(str, [*places, *rest])]


def python_folders() -> list[Path]:
    """The folders of this Python and its packages outside the system's folders: the environment, its base
    installation, and the targets of the links between them."""
    found = [
        Path(getattr(sys, name)) for name in ("prefix", "exec_prefix", "base_prefix", "base_exec_prefix")
    ]
    link = Path(sys.executable)
    while link.is_symlink():
        link = link.parent / os.readlink(link)
        found.append(Path(os.path.normpath(link)).parent.parent)
    found += [folder.resolve() for folder in found]
    system = [Path("/", name) for name in SYSTEM]
    outside = {
        folder
        for folder in found
        if folder != Path("/") and not any(folder.is_relative_to(place) for place in system)
    }
    return sorted(outside, key=lambda folder: len(folder.parts))


def run_kernel(
    script: Path,
    mount: Path,
    out: Path,
    project: Path,
    limit: float,
    working_mib: int = WORKING,
    isolated: bool | None = None,
    absent: Iterable[str] = (),
    interpreter: Path | str = sys.executable,
    **variables: str,
) -> KernelResult:
    """Run a kernel's script with `mount` as Kaggle's input folder; its output is copied to `out`/working.

    `isolated` None uses namespaces if they are available. `interpreter` is the Python that runs the script.
    The script and `src` cannot import the modules in `absent`. `variables` are set in addition to Kaggle's
    own.
    """
    isolated = namespaces() if isolated is None else isolated
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copy(script, out / "script.py")
    with tempfile.TemporaryDirectory(prefix="kernel-") as name:
        stage = Path(name)
        environment = {key: os.environ[key] for key in _KEPT if key in os.environ} | variables
        environment |= {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "PYTHONDONTWRITEBYTECODE": "1"}
        python = [str(interpreter), "-c", MEASURED, " ".join(sorted(absent)), "script.py"]
        if isolated:
            environment |= {"HOME": "/kaggle/home", "TMPDIR": "/tmp"}
            environment |= {f"KAGGLE_{name.upper()}_DIR": f"/kaggle/{name}" for name in ("input", "working")}
            command = [*walls(stage, project, mount, out, working_mib), *python]
            return _run(command, stage, environment, out, limit)
        for folder in ("home", "tmp", "working", "site"):
            (stage / folder).mkdir()
        (stage / "site" / "sitecustomize.py").write_text(NO_NETWORK)
        environment |= {"HOME": str(stage / "home"), "TMPDIR": str(stage / "tmp")}
        environment |= {"KAGGLE_INPUT_DIR": str(mount.resolve()), "PYTHONPATH": str(stage / "site")}
        environment |= {"KAGGLE_WORKING_DIR": str(stage / "working")}
        shutil.copy(script, stage / "working" / "script.py")
        outcome = _run(python, stage / "working", environment, out, limit)
        (stage / "working" / "script.py").unlink()
        shutil.copytree(stage / "working", out / "working")
        size = sum(path.stat().st_size for path in (out / "working").rglob("*") if path.is_file())
        return KernelResult(
            outcome.status, outcome.said, outcome.seconds, outcome.memory, size / 2**20, out / "working"
        )


# Runs the script without the modules of $1, whichever way it imports them, and finally prints its peak memory
# in KiB. Imports by libraries are not restricted: other versions of them have other dependencies.
MEASURED = """
import builtins, functools, importlib, importlib.util, resource, runpy, sys
absent, sys.argv = set(sys.argv[1].split()), sys.argv[2:]
def wall(plain, refuse):
    @functools.wraps(plain)
    def load(name, *rest, **more):
        asks = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0]
        if name.partition(".")[0] in absent and asks in ("__main__", "src", "own"):
            level = more.get("level", rest[3] if len(rest) > 3 else 0)
            if level == 0:
                return refuse(name)
        return plain(name, *rest, **more)
    return load
def lacks(name):
    raise ModuleNotFoundError(f"No module named {name!r} in Kaggle's image", name=name)
builtins.__import__ = importlib.__import__ = wall(builtins.__import__, lacks)
importlib.import_module = wall(importlib.import_module, lacks)
importlib.util.find_spec = wall(importlib.util.find_spec, lambda name: None)
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    sys.stdout.flush(); sys.stderr.flush()
    print("\\npeak KiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""


def _run(command: list[str], cwd: Path, environment: dict[str, str], out: Path, limit: float) -> KernelResult:
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
    before, _, after = said.rpartition("\npeak KiB ")  # a traceback may follow it
    peak, _, after = after.partition("\n") if before or after != said else ("", "", said)
    kib = out / "kib"
    disk = int(kib.read_text()) / 1024 if kib.exists() else 0.0
    memory = int(peak) / 1024 if peak.strip().isdigit() else 0.0
    return KernelResult(status, before + after, time.monotonic() - began, memory, disk, out / "working")
