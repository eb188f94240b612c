"""What this Kaggle keeps: competitions, blobs, datasets, kernels; and how it says no."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaggle_server.runs import Run


class Refusal(Exception):
    """An answer with an HTTP status from 400 on."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass
class Competition:
    """`public` is what one downloads; `hidden` takes its place in a submission's run; `solution` by id."""

    slug: str
    public: Path
    solution: dict[str, str]
    hidden: Path | None = None
    rules_accepted: bool = True
    left_today: int = 5
    submissions: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Blob:
    name: str
    size: int
    content: bytes = b""


@dataclass
class Dataset:
    folders: list[Path]  # one a version
    unready: int  # how many looks at it are still told that it is not ready


@dataclass
class Kernel:
    saved: dict[str, Any]  # the request, as the newest version has it
    runs: list[Run]  # one a version
