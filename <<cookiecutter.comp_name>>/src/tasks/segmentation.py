"""Semantic segmentation: one mask per image and class; an output is the probability of a class for each
pixel."""

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

_BINS = 10  # stratified folds balance the deciles of the share of covered pixels


@dataclass(frozen=True)
class Segmentation(Task):
    """Semantic segmentation. The image cache holds the masks; folds.csv holds the share of pixels that each
    class covers, and OOF tables hold the true mask as a PNG."""

    exclusive: bool = False  # at most one class per pixel: softmax with a background logit fixed at 0

    name = "segmentation"
    kind = "maps"
    stacking = "pixels"

    @classmethod
    def create(cls, config: Config, metric: Metric) -> Task:
        """Create the task; classes are mutually exclusive if the loss requires it."""
        return cls(metric, exclusive=config.train.loss in EXCLUSIVE)

    @property
    def distillation(self) -> str:
        """Distillation loss per pixel: of softmax probabilities (`exclusive`) or of each class on its own
        (`bce`)."""
        return "exclusive" if self.exclusive else "bce"

    def describe(self, targets: pd.DataFrame) -> dict[str, Any]:
        """From shares (N, C): the classes, the number of images that show each, and the mean share of pixels
        it covers."""
        shares = targets.astype(float)
        return {
            "outputs": list(targets.columns),
            "counts": {name: int((shares[name] > 0).sum()) for name in shares},
            "coverage": {name: round(float(shares[name].mean()), 6) for name in shares},
        }

    def check_targets(self, targets: pd.DataFrame, path: Path) -> None:
        """No check here: masks are checked against their images when they are packed."""

    def strata(self, targets: pd.DataFrame) -> np.ndarray:
        """(N,) the decile of coverage, with images without a mask as a stratum of their own. With several
        classes (N, 2 C) zeros and ones: which classes are present, and which cover more than their median."""
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
        """(N, C) float32 share of covered pixels. The training targets are the masks in the cache."""
        return targets.astype(float).to_numpy().astype("float32")

    def truth(self, targets: pd.DataFrame, outputs: list[str]) -> Maps:
        """The true masks of an OOF table, at the original size of each image."""
        from src.maps import Maps

        return Maps(list(targets.itertuples(index=False, name=None)))

    def activate(self, raw: Any) -> Any:
        """(N, C, H, W) sigmoid, or softmax over the classes and a background whose logit is 0."""
        raw = raw.float()
        if not self.exclusive:
            return raw.sigmoid()
        import torch

        ground = torch.zeros_like(raw[:, :1])
        return torch.cat([ground, raw], dim=1).softmax(1)[:, 1:]

    def compact(self, said: Any) -> np.ndarray:
        """Probabilities quantised to steps of 1/255."""
        return (said * 255).round().byte().cpu().numpy()

    def gathered(self, batches: list[np.ndarray], outputs: list[str]) -> Maps:
        """The predictions of all batches as `Maps`, packed image by image."""
        from src.maps import Maps

        return Maps.of(image for batch in batches for image in batch)

    def write(self, predictions: Maps, outputs: list[str]) -> pd.DataFrame:
        """One PNG per cell, one column per class. The PNG has the size the model predicted at; `height` and
        `width` are the image's original size."""
        import pandas as pd

        cells = pd.DataFrame(predictions.cells, columns=outputs)
        if predictions.sizes is not None:
            cells.insert(0, "height", [height for height, _ in predictions.sizes])
            cells.insert(1, "width", [width for _, width in predictions.sizes])
        return cells

    def columns(self, outputs: list[str]) -> tuple[str, ...]:
        """The names of the columns that `write` makes."""
        return ("height", "width", *outputs)

    def read(self, table: pd.DataFrame, outputs: list[str]) -> Maps:
        """The inverse of `write`; each image is resized to its original size on access."""
        from src.maps import Maps

        cells = list(table[outputs].itertuples(index=False, name=None))
        return Maps(cells, list(zip(table["height"].tolist(), table["width"].tolist(), strict=True)))

    def mean(self, several: list[Maps]) -> Maps:
        """The mean per pixel."""
        return several[0].mean(several)

    def select(self, predictions: Maps, spread: np.ndarray | None, settings: Pseudo) -> Selection:
        """Pseudo-labels per pixel: probabilities of at least the threshold or at most 1 - threshold. An image
        is selected if the share of such pixels is at least `pseudo.pixels`.

        The other pixels are `UNSURE`, which the loss ignores. The confidence is the share of confident
        pixels.
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
        """(n, C) the share of confident pixels that each pseudo-label mask covers."""
        import numpy as np

        from src.maps import UNSURE

        rows = []
        for maps in self.read(table, outputs).resized(None):
            known = np.maximum((maps != UNSURE).sum((1, 2)), 1)
            rows.append((maps > UNSURE).sum((1, 2)) / known)
        return np.array(rows, dtype=np.float64).reshape(-1, len(outputs))

    def check_sample(self, sample: pd.DataFrame, id_column: str, outputs: list[str], path: Path) -> None:
        """Raise `UserError` unless the sample has one column of run-length encoded masks."""
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
        """Not implemented: src/submission/forms.py encodes the masks, because it knows what a row means."""
        raise NotImplementedError("a segmentation submission has the form `rle`")

    def check_values(self, table: pd.DataFrame, columns: list[str], dataset: dict[str, Any]) -> None:
        """No check here: src/submission/forms.py checks run lengths against the size of their image."""


def _sure(maps: np.ndarray, threshold: float) -> np.ndarray:
    """Mask of the pixels with a probability of at least `threshold` or at most 1 - `threshold`."""
    import math

    return (maps >= math.ceil(255 * threshold - 1e-9)) | (maps <= math.floor(255 * (1 - threshold) + 1e-9))
