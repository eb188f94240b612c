"""Receipts: `kaggle/receipts/<what>.json` records what was uploaded, for later commands and for the user.

| receipt | written by | holds |
|---|---|---|
| `rehearsal` | `make rehearse` | the hashes of bundle and kernel, whether all cases passed |
| `dataset`, `code` | `make push`, `make train-kernel` | dataset, version, content hash, whether it is ready |
| `kernel` | `make push` | kernel, version, dataset version, all hashes, rows that hold the prior |
| `submission-<content>` | `make send` | one per submission: its id on Kaggle, its content, its scores |
| `train-<experiment>` | `make train-kernel` | the sessions: kernel, version, whether finished |
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.artifacts import write_json
from src.config import Config, UserError


def receipt_path(config: Config, what: str) -> Path:
    """The path of the receipt of this kind."""
    return config.root / "kaggle" / "receipts" / f"{what}.json"


def read_receipt(config: Config, what: str) -> dict[str, Any]:
    """Read the receipt of this kind; an empty dictionary if there is none. Raises `UserError` if it is
    damaged."""
    path = receipt_path(config, what)
    if not path.exists():
        return {}
    try:
        receipt = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not ignored: without its receipt the same content would be sent twice
        receipt = None
    if not isinstance(receipt, dict):
        raise UserError(f"{path}: is no receipt of ours (damaged?); remove it and run the command again")
    return receipt


def write_receipt(config: Config, what: str, **values: Any) -> dict[str, Any]:
    """Write a receipt with the current time in UTC. It replaces the previous receipt of this kind."""
    receipt = {"when": now(), **values}
    write_json(receipt_path(config, what), receipt)
    return receipt


def now() -> str:
    """The current time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
