"""Retrieval (re-identification): rank the identities of the training images for each query image, or answer
with the label for new identities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import Config, Pseudo, UserError
from src.metrics import Metric
from src.metrics.retrieval import Ranking
from src.rawfiles import line_of
from src.tasks.base import Selection, Task, check_filled, in_order
from src.tasks.multiclass import only_column

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Retrieval(Task):
    """Retrieval. Outputs are the identities; a prediction ranks them by cosine similarity to their nearest
    training image."""

    new_label: str | None = None  # the answer for an identity without training images
    candidates: int = 50  # identities kept per ranking

    name = "retrieval"
    kind = "rankings"
    distillation = "cosine"
    stacking = "pairs"

    @classmethod
    def create(cls, config: Config, metric: Metric) -> Task:
        """Create the task with the label for new identities, if there is one."""
        return cls(metric, config.data.new_label, config.inference.candidates)

    def describe(self, targets: pd.DataFrame) -> dict[str, Any]:
        """The sorted identities and the number of images of each."""
        counts = targets.iloc[:, 0].value_counts()
        outputs = in_order(list(counts.index))
        counted = {label: int(counts[label]) for label in outputs}
        return {"outputs": outputs, "counts": counted, "new_label": self.new_label}

    def check_targets(self, targets: pd.DataFrame, path: Path) -> None:
        """Raise `UserError` unless there is one target column with an identity in every row, at least three
        identities, and none equal to the label for new ones."""
        only_column(targets, path)
        check_filled(targets, path, "w_1287fbc")
        labels = targets.iloc[:, 0]
        if labels.nunique() < 3:
            raise UserError(
                f"{path}: `{labels.name}` holds {labels.nunique()} identities; is data.target right?"
            )
        if self.new_label is not None and (labels == self.new_label).any():
            row = int((labels == self.new_label).to_numpy().argmax())
            raise UserError(
                f"{path}, row {line_of(path, row)}: `{labels.name}` is {self.new_label!r}, which "
                f"data.new_label says is no identity; take such rows out of a copy of the file, "
                f"and name it in data.train_csv"
            )

    def strata(self, targets: pd.DataFrame) -> np.ndarray:
        """(N,) the identity of each row as an integer."""
        return targets.iloc[:, 0].astype("category").cat.codes.to_numpy()

    def encode(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N, 1) float32: the index of the identity among the outputs; NaN if it is not among them."""
        index = {label: i for i, label in enumerate(outputs)}
        return targets.iloc[:, 0].map(index).to_numpy(dtype="float32")[:, None]

    def truth(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N,) the correct labels as text."""
        return targets.iloc[:, 0].to_numpy(dtype=object)

    def activate(self, raw: Any) -> Any:
        """Identity: raw outputs increase with the cosine similarity to the class centres, and only their
        order is used."""
        return raw.float()

    def gathered(self, batches: list[np.ndarray], outputs: list[str]) -> Ranking:
        """Rankings of the identities by their class centres: a fast validation during training that needs no
        gallery."""
        import numpy as np

        cosines = np.concatenate(batches)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, : self.candidates]
        return self.ranking(order, np.take_along_axis(cosines, order, axis=1), outputs)

    def ranking(self, numbers: np.ndarray, similarity: np.ndarray, outputs: list[str]) -> Ranking:
        """A `Ranking` from identity numbers (N, k), best first and -1 for none, and their similarities (N,
        k)."""
        import numpy as np

        names = np.array(outputs, dtype=object)
        kept = [row >= 0 for row in numbers]
        labels = [names[row[k]].tolist() for row, k in zip(numbers, kept, strict=True)]
        scores = [row[k].tolist() for row, k in zip(similarity, kept, strict=True)]
        return Ranking(labels, scores, self.new_label)

    def write(self, predictions: Any, outputs: list[str]) -> pd.DataFrame:
        """For each row a list of identities and a list of similarities; a `Selection` has one identity per
        row."""
        import pandas as pd

        return pd.DataFrame({"candidates": list(predictions.labels), "similarity": list(predictions.scores)})

    def columns(self, outputs: list[str]) -> tuple[str, ...]:
        """The names of the columns that `write` makes."""
        return ("candidates", "similarity")

    def read(self, table: pd.DataFrame, outputs: list[str]) -> Ranking:
        """The inverse of `write`."""
        return Ranking(
            [list(row) for row in table["candidates"]],
            [[float(value) for value in row] for row in table["similarity"]],
            self.new_label,
        )

    def mean(self, several: list[Ranking]) -> Ranking:
        """The mean similarity of each candidate. A candidate missing from a list gets the lowest similarity
        of that list."""
        return mean_ranking(several, self.candidates)

    def select(self, predictions: Ranking, spread: np.ndarray | None, settings: Pseudo) -> Selection:
        """Pseudo-labels: queries whose first answer is correct with a probability of at least the threshold.
        `spread` (N,) is that probability, which src/pseudo/confidence.py calibrates; a cosine similarity is
        not a probability."""
        import numpy as np

        if spread is None:
            raise ValueError("the confidence of a ranking is calibrated before rows are selected by it")
        chosen = spread >= settings.threshold
        return Selection(chosen, first_answers(predictions.take(np.flatnonzero(chosen))), spread[chosen])

    def hard_targets(self, table: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(n, 1) the index of the identity."""
        import pandas as pd

        return self.encode(pd.DataFrame({"target": [row[0] for row in table["candidates"]]}), outputs)

    def check_sample(self, sample: pd.DataFrame, id_column: str, outputs: list[str], path: Path) -> None:
        """Raise `UserError` unless the sample has one column of answers."""
        columns = [c for c in sample.columns if c != id_column]
        if len(columns) != 1:
            raise UserError(
                f"{path}: a retrieval submission has one column of answers beside `{id_column}`, this one "
                f"has {', '.join(columns) or 'none'}"
            )

    def submission(
        self, predictions: Any, sample: pd.DataFrame, id_column: str, dataset: dict[str, Any]
    ) -> pd.DataFrame:
        """Not implemented: src/submission/forms.py writes the answers, because it knows how many a cell
        takes."""
        raise NotImplementedError("a retrieval submission has the form `separated`")

    def check_values(self, table: pd.DataFrame, columns: list[str], dataset: dict[str, Any]) -> None:
        """No check here: src/submission/forms.py checks the answers."""


def first_answers(ranking: Ranking) -> Ranking:
    """Each list cut to its first answer."""
    return Ranking([row[:1] for row in ranking.labels], [row[:1] for row in ranking.scores], ranking.new)


def mean_ranking(several: list[Ranking], candidates: int) -> Ranking:
    """Rankings of the same queries averaged by mean similarity, cut to the first `candidates`."""
    labels, scores = [], []
    for lists in zip(*(zip(r.labels, r.scores, strict=True) for r in several), strict=True):
        found = [dict(zip(names, values, strict=True)) for names, values in lists]
        last = [min(one.values(), default=-1.0) for one in found]
        names = dict.fromkeys(name for one in found for name in one)
        mean = {
            name: sum(one.get(name, low) for one, low in zip(found, last, strict=True)) / len(found)
            for name in names
        }
        ranked = sorted(mean, key=lambda name: (-mean[name], name))[:candidates]
        labels.append(ranked)
        scores.append([mean[name] for name in ranked])
    return Ranking(labels, scores, several[0].new)
