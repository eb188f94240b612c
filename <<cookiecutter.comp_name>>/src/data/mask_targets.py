"""Target maps, read when they are looked at: the packed masks of labelled rows, and pseudo-labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from src.config import Data
from src.data.masks import frame
from src.maps import UNSURE, Maps


@dataclass(frozen=True)
class PseudoMasks:
    """Pseudo-labels as masks of the cached size, (S, S, C) uint8 each; around a padded image is nothing."""

    maps: Maps
    settings: Data

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, row: int) -> np.ndarray:
        height, width = self.maps.sizes[row]
        inside = self.maps.resized(None)[row]  # (C, h, w)
        return frame(inside, height, width, self.settings).transpose(1, 2, 0)


@dataclass(frozen=True)
class MaskTargets:
    """Target maps of n rows, each a row of one of the sources; indexed by rows like the array it stands for,
    (n, S, S, C) uint8."""

    sources: tuple[Any, ...]  # each gives (S, S, C) for a row
    source: np.ndarray  # (n,) which of them
    row: np.ndarray  # (n,) which row of it

    @classmethod
    def of(cls, source: Any, rows: np.ndarray) -> MaskTargets:
        """The given rows of one source."""
        return cls((source,), np.zeros(len(rows), np.int64), np.asarray(rows, np.int64))

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: Any) -> np.ndarray:
        places = np.arange(len(self))[rows]
        return np.stack([self.sources[self.source[i]][self.row[i]] for i in places])

    def part(self, rows: slice | np.ndarray) -> MaskTargets:
        """Those of some rows, unread."""
        return MaskTargets(self.sources, self.source[rows], self.row[rows])

    def __add__(self, other: MaskTargets) -> MaskTargets:
        source = np.concatenate([self.source, other.source + len(self.sources)])
        return MaskTargets(self.sources + other.sources, source, np.concatenate([self.row, other.row]))

    def __iter__(self) -> Iterator[np.ndarray]:
        for source, row in zip(self.source, self.row, strict=True):
            yield self.sources[source][row]

    def masks(self) -> list[np.ndarray]:
        """(C, S, S) bool of every row, as metrics want them."""
        return [levels.transpose(2, 0, 1) > UNSURE for levels in self]


def to_loss_targets(values: torch.Tensor) -> torch.Tensor:
    """A batch of targets as losses want it: levels (B, C, H, W) uint8 become numbers from 0 to 1 with NaN for
    what is unsure; float targets stay."""
    if values.dtype != torch.uint8:
        return values
    known = values.float() / 255
    return torch.where(values == UNSURE, torch.full_like(known, torch.nan), known)
