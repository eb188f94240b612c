"""A training on disk between two of its steps: tensors and plain values, read without pickle."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any, Protocol

import torch

from src.artifacts import atomic
from src.reading import damaged, decoding

_FORMAT = 4  # a checkpoint of an earlier version is not gone on from


class Stateful(Protocol):
    """What a checkpoint can hold."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class SaveTimer:
    """Whether the minutes between two checkpoints within an epoch are over; None: they never are."""

    def __init__(self, minutes: float | None):
        self.seconds = float("inf") if minutes is None else 60 * minutes
        self.last = time.monotonic()

    def rings(self) -> bool:
        """True once each time they are over."""
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True


def save(
    path: Path, fingerprint: str, parts: dict[str, Stateful], values: dict[str, Any], device: torch.device
) -> None:
    """Write the states of all parts, plain values, and the random state, atomically."""
    state = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "values": values,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    with atomic(path) as temporary, open(temporary, "wb") as file:  # by its path, torch hides why it cannot
        torch.save(state, file)


def resume(
    path: Path, fingerprint: str, parts: dict[str, Stateful], device: torch.device
) -> dict[str, Any] | None:
    """Put the parts and the random state back; gives the values, or None where there is no checkpoint, and
    nothing was done.

    Raises `Unreadable` for one that is damaged, of other settings or of another network, which is set aside.
    Some of the parts may have changed by then: begin with new ones.
    """
    if not path.exists():
        return None
    with decoding(path):
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if (state["format"], state["fingerprint"]) != (_FORMAT, fingerprint):
            raise damaged(path, "is a checkpoint of other settings or of another version")
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], device)
        return state["values"]


def _check_sums(path: Path) -> None:
    """Raise ValueError where a record is not what was written: torch does not look at the sums it writes."""
    with zipfile.ZipFile(path) as archive:
        if (bad := archive.testzip()) is not None:
            raise ValueError(f"record {bad} is damaged")
