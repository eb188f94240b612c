"""Segmentation: a mask an image and class; an output is the probability of a class, pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import EXCLUSIVE, Config, Pseudo, UserError
from src.metrics import Metric
from src.tasks.base import Selection, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from src.maps import Maps

_BINS = 10  # parts of the images by the share of pixels covered, which stratified folds balance


@dataclass(frozen=True)
class Segmentation(Task):
    """Masks live in the image cache; the tables hold what share of its pixels a class covers (folds.csv) or
    the true mask as a picture (OOF tables)."""

    exclusive: bool = False  # whether a pixel has one class at most: softmax beside a background pinned at 0

    name = "segmentation"
    kind = "maps"
    stacking = "pixels"

    @classmethod
    def create(cls, config: Config, metric: Metric) -> Task:
        """Classes exclude each other where the loss says so."""
        return cls(metric, exclusive=config.train.loss in EXCLUSIVE)

    @property
    def distillation(self) -> str:
        """Pixel by pixel: of probabilities that add to 1, or of each on its own."""
        return "exclusive" if self.exclusive else "bce"

    def describe(self, targets: pd.DataFrame) -> dict[str, Any]:
        """The classes, the images that show each, and the mean share of pixels it covers, of (N, C)
        shares."""
        shares = targets.astype(float)
        return {
            "outputs": list(targets.columns),
            "counts": {name: int((shares[name] > 0).sum()) for name in shares},
            "coverage": {name: round(float(shares[name].mean()), 6) for name in shares},
        }

    def check_targets(self, targets: pd.DataFrame, path: Path) -> None:
        """Nothing: run-length masks are checked against their images, when they are packed."""

    def strata(self, targets: pd.DataFrame) -> np.ndarray:
        """(N,) the tenth of the images by coverage, those with no mask apart; of several classes (N, 2 C)
        which are there, and which cover more than they do in half of their images."""
        import numpy as np

        shares = targets.astype(float).to_numpy()
        if shares.shape[1] == 1:
            there = shares[shares[:, 0] > 0, 0]
            edges = np.quantile(there, np.linspace(0, 1, _BINS + 1)[1:-1]) if len(there) else []
            return np.where(shares[:, 0] > 0, 1 + np.searchsorted(edges, shares[:, 0], side="left"), 0)
        present = shares > 0
        middle = np.array([np.median(s[s > 0]) if (s > 0).any() else 0.0 for s in shares.T])
        return np.hstack([present, shares > middle]).astype("int64")

    def encode(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N, C) the share of pixels covered; what a model learns from are the masks in the cache."""
        return targets.astype(float).to_numpy().astype("float32")

    def truth(self, targets: pd.DataFrame, outputs: list[str]) -> Maps:
        """The true masks of an OOF table, at the images' own sizes."""
        from src.maps import Maps

        return Maps(list(targets.itertuples(index=False, name=None)))

    def activate(self, raw: Any) -> Any:
        """(N, C, H, W) sigmoid; or softmax over the classes and a background whose logit is 0."""
        raw = raw.float()
        if not self.exclusive:
            return raw.sigmoid()
        import torch

        ground = torch.zeros_like(raw[:, :1])
        return torch.cat([ground, raw], dim=1).softmax(1)[:, 1:]

    def compact(self, said: Any) -> np.ndarray:
        """Probabilities in steps of 1/255."""
        return (said * 255).round().byte().cpu().numpy()

    def gathered(self, batches: list[np.ndarray], outputs: list[str]) -> Maps:
        """Packed, image by image."""
        from src.maps import Maps

        return Maps.of(image for batch in batches for image in batch)

    def write(self, predictions: Maps, outputs: list[str]) -> pd.DataFrame:
        """A PNG a cell, a column a class; its size is what the model saw, `height` and `width` are the
        image's own."""
        import pandas as pd

        cells = pd.DataFrame(predictions.cells, columns=outputs)
        if predictions.sizes is not None:
            cells.insert(0, "height", [height for height, _ in predictions.sizes])
            cells.insert(1, "width", [width for _, width in predictions.sizes])
        return cells

    def columns(self, outputs: list[str]) -> tuple[str, ...]:
        """The columns that `write` makes."""
        return ("height", "width", *outputs)

    def read(self, table: pd.DataFrame, outputs: list[str]) -> Maps:
        """What `write` wrote; an image looked at comes in its own size."""
        from src.maps import Maps

        cells = list(table[outputs].itertuples(index=False, name=None))
        return Maps(cells, list(zip(table["height"].tolist(), table["width"].tolist(), strict=True)))

    def mean(self, several: list[Maps]) -> Maps:
        """Pixel by pixel."""
        return several[0].mean(several)

    def select(self, predictions: Maps, spread: np.ndarray | None, settings: Pseudo) -> Selection:
        """Pixels at or above the threshold, or at or below its mirror; an image needs `pseudo.pixels` of
        them.

        The others are `UNSURE`, which the loss leaves out. Confidence is the share of sure pixels.
        """
        import numpy as np

        from src.maps import Maps

        seen = predictions.resized(None)
        share = np.array([_sure(maps, settings.threshold).mean() for maps in seen])
        chosen = share >= settings.pixels
        told = Maps.of(self._hard_masks(seen, np.flatnonzero(chosen), settings))
        sizes = None if predictions.sizes is None else [predictions.sizes[i] for i in np.flatnonzero(chosen)]
        return Selection(chosen, told.resized(sizes), share[chosen])

    @staticmethod
    def _hard_masks(seen: Maps, rows: np.ndarray, settings: Pseudo) -> Iterator[np.ndarray]:
        import numpy as np

        from src.maps import UNSURE

        for row in rows:
            maps = seen[int(row)]
            values = np.where(maps >= 128, 255, 0) if settings.labels == "hard" else maps
            yield np.where(_sure(maps, settings.threshold), values, UNSURE).astype(np.uint8)

    def hard_targets(self, table: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(n, C) the share of its sure pixels that a class was told to cover."""
        import numpy as np

        from src.maps import UNSURE

        rows = []
        for maps in self.read(table, outputs).resized(None):
            known = np.maximum((maps != UNSURE).sum((1, 2)), 1)
            rows.append((maps > UNSURE).sum((1, 2)) / known)
        return np.array(rows, dtype=np.float64).reshape(-1, len(outputs))

    def check_sample(self, sample: pd.DataFrame, id_column: str, outputs: list[str], path: Path) -> None:
        """One column of run-length masks; with several classes each row must say which."""
        columns = [c for c in sample.columns if c != id_column]
        if len(columns) != 1:
            raise UserError(
                f"{path}: a submission of masks has one column of run lengths beside `{id_column}`"
                f"{' and the class' if len(outputs) > 1 else ''}, this one has "
                f"{', '.join(columns) or 'none'}"
            )

    def submission(
        self, predictions: Any, sample: pd.DataFrame, id_column: str, dataset: dict[str, Any]
    ) -> pd.DataFrame:
        """Masks go into cells in src/submission/forms.py, which knows what a row means."""
        raise NotImplementedError("a segmentation submission has the form `rle`")

    def check_values(self, table: pd.DataFrame, columns: list[str], dataset: dict[str, Any]) -> None:
        """Run lengths are checked against their image in src/submission/forms.py, which knows its size."""


def _sure(maps: np.ndarray, threshold: float) -> np.ndarray:
    """Which pixels reach the threshold or its mirror."""
    import math

    return (maps >= math.ceil(255 * threshold - 1e-9)) | (maps <= math.floor(255 * (1 - threshold) + 1e-9))
