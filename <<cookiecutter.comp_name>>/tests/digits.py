"""The embedded competition: scikit-learn's handwritten digits (UCI, CC BY 4.0), as Kaggle hands them out.

    python tests/digits.py data/raw --solution solution.csv

Few labels and many test rows, so that pseudo-labels have work to do. The hidden labels go to a file outside
the raw folder, which no stage reads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd


def targets_of(task: str, values: np.ndarray, images: np.ndarray) -> pd.DataFrame:
    """What train.csv says of digits `values` (N,) with their `images` (N, 8, 8): a column a target.

    `numbers` is a regression of two targets; that of `regression` is called `target`, as Kaggle's often is.
    """
    ink, large = (images > 0).sum((1, 2)), values > 4
    even, loop = values % 2 == 0, np.isin(values, [0, 6, 8, 9])
    tables = {
        "multiclass": {"label": values},
        "binary": {"label": np.where(large, "yes", "no")},
        "multilabel": {"loop": loop.astype(int), "even": even.astype(int), "above four": large.astype(int)},
        "regression": {"target": ink / 2},
        "numbers": {"ink": ink, "value": values * 1000},
    }
    return pd.DataFrame(tables[task])


def write_competition(
    raw: Path,
    solution: Path | None = None,
    n_train: int = 600,
    n_test: int | None = None,
    seed: int = 0,
    task: str = "multiclass",
) -> None:
    """Write the three tables and 32-pixel PNG files; ids are shuffled and say nothing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    order = order[: n_train + n_test] if n_test is not None else order
    for folder in ("train_images", "test_images"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    ids = [
        f"{number:08x}" for number in np.random.default_rng(seed + 1).choice(2**32, len(order), replace=False)
    ]
    for place, row in enumerate(order):
        pixels = np.clip(digits.images[row] * 16, 0, 255).astype(np.uint8)
        pixels = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_CUBIC)
        folder = "train_images" if place < n_train else "test_images"
        cv2.imwrite(str(raw / folder / f"{ids[place]}.png"), pixels)
    targets = targets_of(task, digits.target[order], digits.images[order])
    table = pd.DataFrame({"id": ids}).join(targets)
    table[:n_train].to_csv(raw / "train.csv", index=False)
    table.loc[n_train:, ["id"]].to_csv(raw / "test.csv", index=False)
    zeros = dict.fromkeys(targets.columns, 0)
    table[n_train:].assign(**zeros).to_csv(raw / "sample_submission.csv", index=False)
    if solution is not None:
        solution.parent.mkdir(parents=True, exist_ok=True)
        table[n_train:].to_csv(solution, index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", type=Path)
    parser.add_argument("--solution", type=Path)
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--task", default="multiclass", help="or binary, multilabel, regression, numbers")
    arguments = parser.parse_args()
    write_competition(arguments.raw, arguments.solution, n_train=arguments.train, task=arguments.task)
