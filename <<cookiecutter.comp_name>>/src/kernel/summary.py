"""`summary.json` beside submission.csv: how many rows were predicted, and how many hold the prior and why.

| key | |
|---|---|
| `rows`, `images` | number of rows of the submission; number of images of the test set |
| `predicted` | rows that hold a prediction for their own image |
| `prior` | rows that hold the prior, by reason, such as `{"image not found": 12}` |
| `fallback` | the error that left the prior in every row; null if there was none |

A kernel that finds no image in its hidden run is scored without an error: only its log and this file show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from src.artifacts import read_json, write_json
from src.kernel.hidden_test import TestSet

NAME = "summary.json"
NOT_FOUND, UNREADABLE, LATE = "image not found", "image unreadable", "out of time"
NOT_YET = "not predicted"  # the run ended before
_MANY = 0.5  # the share of rows above which the submission says little about the images


@dataclass(frozen=True)
class Summary:
    """The content of a submission, counted in rows."""

    rows: int
    images: int
    predicted: int
    prior: dict[str, int] = field(default_factory=dict)
    fallback: str | None = None

    @property
    def share(self) -> float:
        """The share of rows that hold the prior."""
        return sum(self.prior.values()) / max(1, self.rows)

    def write(self, working: Path) -> None:
        """Write summary.json."""
        write_json(working / NAME, asdict(self))

    def warn(self) -> None:
        """Print a warning if most rows hold the prior."""
        if self.share > _MANY:
            why = ", ".join(f"{count:,} {reason}" for reason, count in self.prior.items())
            print(
                f"WARNING: {sum(self.prior.values()):,} of {self.rows:,} rows hold the prior, the same "
                f"answer whatever their image shows ({why}): the score will say nothing of the models",
                flush=True,
            )


def nothing_yet(test: TestSet) -> Summary:
    """The summary of the submission that holds only the prior and is written first."""
    rows = len(test.asked.sample)
    return Summary(rows, len(test), 0, {NOT_YET: rows} if rows else {})


def summary_of(test: TestSet, unseen: Mapping[str, np.ndarray]) -> Summary:
    """The summary of a submission; `unseen` holds, by reason, a mask (images,) of those without a prediction.

    Rows that could not be answered are counted under their own reason first.
    """
    place = {name: row for row, name in enumerate(test.ids)}
    image = np.array([place[name] for name in test.asked.form.images], dtype=int)
    left = np.ones(len(image), dtype=bool)
    prior = {}
    for reason, rows in [
        *test.asked.refused.items(),
        *((reason, images[image]) for reason, images in unseen.items()),
    ]:
        if count := int((rows & left).sum()):
            prior[reason] = count
        left &= ~rows
    return Summary(len(image), len(test), int(left.sum()), prior)


def note_fallback(working: Path, error: str, rows: int = 0) -> None:
    """Add the error that ended the run to the existing summary, or to a new one for `rows` rows of the sample
    itself."""
    path = working / NAME
    known = Summary(**read_json(path)) if path.is_file() else Summary(rows, 0, 0, {NOT_YET: rows})
    known = replace(known, fallback=error)
    known.write(working)
    known.warn()
