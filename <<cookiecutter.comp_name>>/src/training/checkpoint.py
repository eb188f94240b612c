"""Training checkpoints: tensors and plain values between two optimiser steps, read without pickle."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any, Protocol

import torch

from src.artifacts import atomic
from src.reading import damaged, decoding

_FORMAT = 4  # version of the format; checkpoints of an earlier one cannot be resumed


class Stateful(Protocol):
    """Anything with `state_dict()` and `load_state_dict()`."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class SaveTimer:
    """Timer for checkpoints within an epoch: due every `minutes`, or never if None."""

    def __init__(self, minutes: float | None):
        self.seconds = float("inf") if minutes is None else 60 * minutes
        self.last = time.monotonic()

    def rings(self) -> bool:
        """Whether a checkpoint is due; True once per interval."""
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True


def save(
    path: Path, fingerprint: str, parts: dict[str, Stateful], values: dict[str, Any], device: torch.device
) -> None:
    """Write the states of all parts, plain values and the RNG state, atomically."""
    state = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "values": values,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    with atomic(path) as temporary, open(temporary, "wb") as file:  # given a path, torch hides the cause
        torch.save(state, file)


def resume(
    path: Path, fingerprint: str, parts: dict[str, Stateful], device: torch.device
) -> dict[str, Any] | None:
    """Restore parts and RNG state from a checkpoint; returns its plain values, or None if there is none.

    Raises `Unreadable` if the checkpoint is damaged or belongs to other settings or another network. The
    caller sets it aside and starts with new parts, because some may have changed by then.
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
    """Raise ValueError for a damaged record: torch writes checksums but does not verify them."""
    with zipfile.ZipFile(path) as archive:
        if (bad := archive.testzip()) is not None:
            raise ValueError(f"record {bad} is damaged")
