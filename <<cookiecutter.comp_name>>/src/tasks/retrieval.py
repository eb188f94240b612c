"""Retrieval, or re-identification: whom an image shows, out of the identities of the training images, or
someone new."""

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
    """Outputs are the identities; a prediction ranks them by the cosine to their nearest training image."""

    new_label: str | None = None  # the answer for an identity that no training image shows
    candidates: int = 50  # identities kept of each ranking

    name = "retrieval"
    kind = "rankings"
    distillation = "cosine"
    stacking = "pairs"

    @classmethod
    def create(cls, config: Config, metric: Metric) -> Task:
        """With the label for new identities, where there is one."""
        return cls(metric, config.data.new_label, config.inference.candidates)

    def describe(self, targets: pd.DataFrame) -> dict[str, Any]:
        """The identities in their order, and images of each."""
        counts = targets.iloc[:, 0].value_counts()
        outputs = in_order(list(counts.index))
        counted = {label: int(counts[label]) for label in outputs}
        return {"outputs": outputs, "counts": counted, "new_label": self.new_label}

    def check_targets(self, targets: pd.DataFrame, path: Path) -> None:
        """One column, an identity in every row, three at least, none called as new ones are."""
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
        """The identity of each row as a number."""
        return targets.iloc[:, 0].astype("category").cat.codes.to_numpy()

    def encode(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N, 1) the identity's number among the outputs; NaN for none of them."""
        index = {label: i for i, label in enumerate(outputs)}
        return targets.iloc[:, 0].map(index).to_numpy(dtype="float32")[:, None]

    def truth(self, targets: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(N,) the right answers, as text."""
        return targets.iloc[:, 0].to_numpy(dtype=object)

    def activate(self, raw: Any) -> Any:
        """Nothing: raw outputs rise with the cosine to the identities' centres, and are ranked by."""
        return raw.float()

    def gathered(self, batches: list[np.ndarray], outputs: list[str]) -> Ranking:
        """Identities ranked by their centres: a quick look, which needs no gallery."""
        import numpy as np

        cosines = np.concatenate(batches)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, : self.candidates]
        return self.ranking(order, np.take_along_axis(cosines, order, axis=1), outputs)

    def ranking(self, numbers: np.ndarray, similarity: np.ndarray, outputs: list[str]) -> Ranking:
        """(N, k) numbers of identities, the best first and -1 for none, with their similarity."""
        import numpy as np

        names = np.array(outputs, dtype=object)
        kept = [row >= 0 for row in numbers]
        labels = [names[row[k]].tolist() for row, k in zip(numbers, kept, strict=True)]
        scores = [row[k].tolist() for row, k in zip(similarity, kept, strict=True)]
        return Ranking(labels, scores, self.new_label)

    def write(self, predictions: Any, outputs: list[str]) -> pd.DataFrame:
        """A list of identities and one of similarities a row; of a `Selection` one identity each."""
        import pandas as pd

        return pd.DataFrame({"candidates": list(predictions.labels), "similarity": list(predictions.scores)})

    def columns(self, outputs: list[str]) -> tuple[str, ...]:
        """The columns that `write` makes."""
        return ("candidates", "similarity")

    def read(self, table: pd.DataFrame, outputs: list[str]) -> Ranking:
        """What `write` wrote."""
        return Ranking(
            [list(row) for row in table["candidates"]],
            [[float(value) for value in row] for row in table["similarity"]],
            self.new_label,
        )

    def mean(self, several: list[Ranking]) -> Ranking:
        """Each candidate's mean similarity; one that a list lacks is as far as the last of that list."""
        return mean_ranking(several, self.candidates)

    def select(self, predictions: Ranking, spread: np.ndarray | None, settings: Pseudo) -> Selection:
        """Queries whose first answer is right with a probability that reaches the threshold. `spread` is that
        probability (N,), which src/pseudo/confidence.py finds: a cosine is none."""
        import numpy as np

        if spread is None:
            raise ValueError("the confidence of a ranking is calibrated before rows are selected by it")
        chosen = spread >= settings.threshold
        return Selection(chosen, first_answers(predictions.take(np.flatnonzero(chosen))), spread[chosen])

    def hard_targets(self, table: pd.DataFrame, outputs: list[str]) -> np.ndarray:
        """(n, 1) the number of the identity."""
        import pandas as pd

        return self.encode(pd.DataFrame({"target": [row[0] for row in table["candidates"]]}), outputs)

    def check_sample(self, sample: pd.DataFrame, id_column: str, outputs: list[str], path: Path) -> None:
        """One column of answers."""
        columns = [c for c in sample.columns if c != id_column]
        if len(columns) != 1:
            raise UserError(
                f"{path}: a retrieval submission has one column of answers beside `{id_column}`, this one "
                f"has {', '.join(columns) or 'none'}"
            )

    def submission(
        self, predictions: Any, sample: pd.DataFrame, id_column: str, dataset: dict[str, Any]
    ) -> pd.DataFrame:
        """Answers go into cells in src/submission/forms.py, which knows how many a cell takes."""
        raise NotImplementedError("a retrieval submission has the form `separated`")

    def check_values(self, table: pd.DataFrame, columns: list[str], dataset: dict[str, Any]) -> None:
        """Checked as answers in src/submission/forms.py."""


def first_answers(ranking: Ranking) -> Ranking:
    """Each list cut to its first answer."""
    return Ranking([row[:1] for row in ranking.labels], [row[:1] for row in ranking.scores], ranking.new)


def mean_ranking(several: list[Ranking], candidates: int) -> Ranking:
    """Rankings of the same queries as one, by mean similarity, cut to the first `candidates`."""
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
