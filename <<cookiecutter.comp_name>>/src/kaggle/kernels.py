"""Kernels: push one, read it back and compare, wait for its run, fetch what it wrote.

A pushed kernel is not yet the kernel that was meant: an unknown machine, a source that was left out or the
internet switched on are all accepted in silence. So every push is read back.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.artifacts import read_json, writing
from src.config import UserError
from src.kaggle.client import About, Busy, Refused, call
from src.kaggle.metadata import KernelMetadata, write_metadata
from src.kaggle.replies import KernelStatus, Pushed
from src.kaggle.scan import refuse_secret
from src.kaggle.waiting import wait_for

QUEUE_HOURS = 6.0  # a run may wait this long for a machine, beside its own time
LOG_LINES = 15  # of a failed run's log that are shown


class Mismatch(UserError):
    """Kaggle's copy of a kernel is not what was sent."""


class RunFailed(UserError):
    """The kernel ran, and failed or was cancelled."""


@dataclass(frozen=True)
class KernelVersion:
    """A version of a kernel that was pushed and read back."""

    ref: str  # owner/slug
    version: int
    url: str


def about_kernel(ref: str) -> About:
    """A kernel; Kaggle tells a stranger's from none by nothing."""
    return About(
        f"kernel {ref}",
        "it does not exist, or the key is not its owner's: is competition.kaggle_username the key's owner?",
    )


def push(metadata: KernelMetadata, code: str, folder: Path, hours: float) -> KernelVersion:
    """Push `code` as a new version, which starts a run of at most `hours`; `folder` keeps what was sent.

    Raises `UserError` where it holds a secret, was refused, or a source was left out. What Kaggle made of it,
    `read_back` tells.
    """
    refuse_secret(f"the script of kernel {metadata.id}", code)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / metadata.code_file).write_text(code, encoding="utf-8")
    write_metadata(folder, metadata)
    seconds = str(round(hours * 3600))
    text = call("kernels", "push", "-p", str(folder), "-t", seconds, about=about_kernel(metadata.id))
    pushed = Pushed.read(text, metadata.id)
    return KernelVersion(metadata.id, pushed.version, pushed.url)


def read_back(kernel: KernelVersion, metadata: KernelMetadata, code: str, folder: Path) -> None:
    """Compare Kaggle's own copy, which is kept in `folder`, with what was sent; raises `Mismatch` where it
    differs in any way."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _check_same(metadata, code, pull(kernel.ref, folder), folder)
    print(f"kernel {kernel.ref}: version {kernel.version} is there as it was sent; {kernel.url}")


def pull(ref: str, folder: Path) -> dict[str, Any]:
    """Kaggle's own copy of the newest version: its metadata, and its code beside it in `folder`."""
    call("kernels", "pull", ref, "-p", str(folder), "-m", about=about_kernel(ref))
    try:
        return read_json(folder / "kernel-metadata.json", id=str)
    except UserError:
        raise UserError(
            f"kernel {ref}: Kaggle's copy could not be read back; run the same command again"
        ) from None


def _check_same(metadata: KernelMetadata, code: str, held: dict[str, Any], folder: Path) -> None:
    """Raise `Mismatch` naming what differs between what was sent and what Kaggle has."""
    wanted = metadata.model_dump(mode="json", exclude={"code_file", "docker_image_pinning_type", "keywords"})
    wanted.pop("enable_gpu")  # the machine says it; Kaggle sets this one as it likes
    for key, value in wanted.items():
        there = held.get(key)
        if _plain(there) != _plain(value):
            raise Mismatch(
                f"kernel {metadata.id}: Kaggle has {key}={_shown(there)}, {_shown(value)} was sent: "
                f"stop its run on kaggle.com/code/{metadata.id}; {ADVICE.get(key, 'then push again')}"
            )
    path = folder / str(held.get("code_file"))
    if not path.is_file() or _code(path.read_text(encoding="utf-8")) != _code(code):
        raise Mismatch(
            f"kernel {metadata.id}: the code that Kaggle has is not the one sent; stop its run on "
            f"kaggle.com/code/{metadata.id}, then push again"
        )


ADVICE = {
    "machine_shape": "this competition or account has no such machine: set kaggle.machine_shape",
    "enable_internet": "the competition takes no kernel with internet; switch it off on the kernel's page",
    "kernel_type": "a kernel's type can never change: set kaggle.kernel to a new slug",
}


def wait_until_done(kernel: KernelVersion, hours: float, folder: Path) -> None:
    """Wait for the run's end; where it failed or was cancelled, print the end of its log and raise
    `RunFailed`."""

    def look() -> tuple[str, KernelStatus | None]:
        status = KernelStatus.read(call("kernels", "status", kernel.ref, about=about_kernel(kernel.ref)))
        over = status.status in ("complete", "error", "cancel_acknowledged")
        return status.status.replace("_", " "), status if over else None

    title = f"kernel {kernel.ref} version {kernel.version}"
    status = wait_for(title, look, hours + QUEUE_HOURS, "look at its page, or run the same command again")
    if status.status == "complete":
        return
    try:
        log = log_of(fetch_output(kernel, folder), kernel)
    except (Busy, Refused):  # the failure itself matters more than its log
        log = ""
    lines = [line for line in log.splitlines() if line.strip()][-LOG_LINES:]
    word = "was cancelled" if status.status.startswith("cancel") else "failed"
    why = status.failure or (lines[-1].strip() if lines else "Kaggle gives no reason")
    if lines:
        print("\n".join(f"  | {line}" for line in lines))
    raise RunFailed(f"{title} {word}: {why}; its log is in {folder}, mend the cause and push again")


def fetch_output(kernel: KernelVersion, folder: Path, only: str | None = None) -> Path:
    """The newest run's log, and its files whose whole path matches `only`, in an emptied `folder`, so that
    nothing older passes for them. No name leads out of the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder):
        folder.mkdir(parents=True)
    arguments = ["-p", str(folder), "--force", "--page-size", "200", "--file-pattern", inside(only)]
    call("kernels", "output", kernel.ref, *arguments, about=about_kernel(kernel.ref), watch=True)
    return folder


def inside(only: str | None) -> str:
    """The client's pattern for paths below the folder that match `only` from end to end; it searches, and
    joins whatever name it finds to the folder. None matches nothing: the log comes always."""
    if only is None:
        return r"(?!)"
    return rf"(?s)\A(?!/)(?!(?:.*/)?\.\.(?:/|\Z))(?:{only})\Z"


def log_of(folder: Path, kernel: KernelVersion) -> str:
    """What the run printed, as plain text; empty where no log came."""
    path = folder / f"{kernel.ref.partition('/')[2]}.log"
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return "".join(str(entry.get("data", "")) for entry in json.loads(text))
    except (ValueError, TypeError, AttributeError):  # older runs: plain text
        return text


def _plain(value: Any) -> Any:
    """A value as both sides may write it: no prefix before a source, none and nothing the same."""
    if isinstance(value, list | tuple):
        return sorted(
            str(item).removeprefix("datasets/").removeprefix("competitions/").lower() for item in value
        )
    if isinstance(value, str):
        value = value.lower()
    return None if value in ("", "none") else value


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _code(text: str) -> str:
    return text.replace("\r\n", "\n").strip()
