"""Target masks that are read on access: the packed masks of labelled rows, and pseudo-labels."""

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
    """Pseudo-labels as masks at the cached size, each (S, S, C) uint8; the padding around an image is 0."""

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
    """Target masks of n rows from one or several sources. Indexing works like that of the array (n, S, S, C)
    uint8 and reads the masks from disk."""

    sources: tuple[Any, ...]  # each gives (S, S, C) for a row
    source: np.ndarray  # (n,) index into `sources`
    row: np.ndarray  # (n,) row of that source

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
        """The given rows, without reading the masks."""
        return MaskTargets(self.sources, self.source[rows], self.row[rows])

    def __add__(self, other: MaskTargets) -> MaskTargets:
        source = np.concatenate([self.source, other.source + len(self.sources)])
        return MaskTargets(self.sources + other.sources, source, np.concatenate([self.row, other.row]))

    def __iter__(self) -> Iterator[np.ndarray]:
        for source, row in zip(self.source, self.row, strict=True):
            yield self.sources[source][row]

    def masks(self) -> list[np.ndarray]:
        """Boolean masks (C, S, S) of every row, as the metrics take them."""
        return [levels.transpose(2, 0, 1) > UNSURE for levels in self]


def to_loss_targets(values: torch.Tensor) -> torch.Tensor:
    """Convert a batch of targets to what the losses take: masks (B, C, H, W) uint8 become floats from 0 to 1,
    with NaN for `UNSURE` pixels; float targets are unchanged."""
    if values.dtype != torch.uint8:
        return values
    known = values.float() / 255
    return torch.where(values == UNSURE, torch.full_like(known, torch.nan), known)
