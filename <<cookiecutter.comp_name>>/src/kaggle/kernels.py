"""Kaggle kernels: push a version, verify it by reading it back, wait for its run and download its output.

Kaggle silently accepts an unknown machine, a missing source or enabled internet access. So every pushed
kernel is read back and compared with what was sent.
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

QUEUE_HOURS = 6.0  # maximum queueing time until a machine is free, in addition to the run time
LOG_LINES = 15  # number of log lines that are printed for a failed run


class Mismatch(UserError):
    """Kaggle's copy of a kernel differs from what was sent."""


class RunFailed(UserError):
    """The run of the kernel failed or was cancelled."""


@dataclass(frozen=True)
class KernelVersion:
    """A pushed version of a kernel."""

    ref: str  # owner/slug
    version: int
    url: str


def about_kernel(ref: str) -> About:
    """The subject of a kernel call. Kaggle returns the same error for a missing kernel and a foreign private
    one."""
    return About(
        f"kernel {ref}",
        "it does not exist, or the key is not its owner's: is competition.kaggle_username the key's owner?",
    )


def push(metadata: KernelMetadata, code: str, folder: Path, hours: float) -> KernelVersion:
    """Push `code` as a new version, which starts a run of at most `hours`; `folder` keeps what was sent.

    Raises `UserError` if the code holds a secret, Kaggle rejects the push or a source was left out.
    `read_back` verifies what Kaggle stored.
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
    """Download Kaggle's copy of the kernel into `folder` and compare it with what was sent. Raises `Mismatch`
    if they differ."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _check_same(metadata, code, pull(kernel.ref, folder), folder)
    print(f"kernel {kernel.ref}: version {kernel.version} is there as it was sent; {kernel.url}")


def pull(ref: str, folder: Path) -> dict[str, Any]:
    """Download the newest version into `folder`: returns its metadata, its code lies in the folder."""
    call("kernels", "pull", ref, "-p", str(folder), "-m", about=about_kernel(ref))
    try:
        return read_json(folder / "kernel-metadata.json", id=str)
    except UserError:
        raise UserError(
            f"kernel {ref}: Kaggle's copy could not be read back; run the same command again"
        ) from None


def _check_same(metadata: KernelMetadata, code: str, held: dict[str, Any], folder: Path) -> None:
    """Raise `Mismatch` naming the first difference between what was sent and what Kaggle stores."""
    wanted = metadata.model_dump(mode="json", exclude={"code_file", "docker_image_pinning_type", "keywords"})
    wanted.pop("enable_gpu")  # implied by the machine; Kaggle sets this key itself
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
    """Wait for the end of the run. If it failed or was cancelled, print the end of its log and raise
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
    """Download the newest run's log and its files whose whole path matches the pattern `only` into `folder`.

    The folder is emptied first, so that no older file is mistaken for a new one. No path can leave the
    folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder):
        folder.mkdir(parents=True)
    arguments = ["-p", str(folder), "--force", "--page-size", "200", "--file-pattern", inside(only)]
    call("kernels", "output", kernel.ref, *arguments, about=about_kernel(kernel.ref), watch=True)
    return folder


def inside(only: str | None) -> str:
    """The client's file pattern for paths below the folder that match `only` from end to end.

    The client searches for the pattern and joins any name that it finds to the folder, so absolute paths and
    `..` are excluded here. None matches no file; the log is always downloaded.
    """
    if only is None:
        return r"(?!)"
    return rf"(?s)\A(?!/)(?!(?:.*/)?\.\.(?:/|\Z))(?:{only})\Z"


def log_of(folder: Path, kernel: KernelVersion) -> str:
    """The log of the run as plain text; empty if no log was downloaded."""
    path = folder / f"{kernel.ref.partition('/')[2]}.log"
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return "".join(str(entry.get("data", "")) for entry in json.loads(text))
    except (ValueError, TypeError, AttributeError):  # older runs have a plain-text log
        return text


def _plain(value: Any) -> Any:
    """Normalise a value for comparison: no prefix before a source, lower case, and "none" equals null."""
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
