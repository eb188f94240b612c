"""`kaggle/receipts/<what>.json`: what was sent, so that the next command knows, and so do you next week.

| receipt | written by | holds |
|---|---|---|
| `rehearsal` | `make rehearse` | the bundle's hash, the kernel's, whether all passed |
| `dataset`, `code` | `make push`, `make train-kernel` | dataset, version, its content's hash, if ready |
| `kernel` | `make push` | kernel, version, dataset version, hashes of all, rows on the prior |
| `submission-<content>` | `make send` | one a submission: its reference, what it was made of, its score |
| `train-<experiment>` | `make train-kernel` | its sessions: kernel, version, whether finished |
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.artifacts import write_json
from src.config import Config, UserError


def receipt_path(config: Config, what: str) -> Path:
    """Where the receipt of this kind lies."""
    return config.root / "kaggle" / "receipts" / f"{what}.json"


def read_receipt(config: Config, what: str) -> dict[str, Any]:
    """The newest receipt of this kind; empty where there is none. Raises `UserError` where it is damaged."""
    path = receipt_path(config, what)
    if not path.exists():
        return {}
    try:
        receipt = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never set aside: without it the same would be sent twice
        receipt = None
    if not isinstance(receipt, dict):
        raise UserError(f"{path}: is no receipt of ours (damaged?); remove it and run the command again")
    return receipt


def write_receipt(config: Config, what: str, **values: Any) -> dict[str, Any]:
    """Write a receipt with the time in UTC; it takes the place of the one before."""
    receipt = {"when": now(), **values}
    write_json(receipt_path(config, what), receipt)
    return receipt


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
