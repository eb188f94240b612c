"""A small competition made from scikit-learn's handwritten digits (UCI, CC BY 4.0), in Kaggle's layout.

    python tests/digits.py data/raw --solution solution.csv

Few training labels and many test rows, so that pseudo-labels can help. The hidden labels are written to a
file outside the raw folder, which no stage reads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd


def targets_of(task: str, values: np.ndarray, images: np.ndarray) -> pd.DataFrame:
    """The target columns of train.csv for digits `values` (N,) with their `images` (N, 8, 8).

    `numbers` is a regression of two targets; the target of `regression` is called `target`, a common name on
    Kaggle. `rare` has twenty labels, each true for a tenth or a fifth of the rows.
    """
    ink, large = (images > 0).sum((1, 2)), values > 4
    even, loop = values % 2 == 0, np.isin(values, [0, 6, 8, 9])
    rare = {f"is {d}": np.isin(values, [d]) for d in range(10)}
    rare |= {f"is {d} or after": np.isin(values, [d, (d + 1) % 10]) for d in range(10)}
    tables = {
        "multiclass": {"label": values},
        "binary": {"label": np.where(large, "yes", "no")},
        "multilabel": {"loop": loop.astype(int), "even": even.astype(int), "above four": large.astype(int)},
        "regression": {"target": ink / 2},
        "numbers": {"ink": ink, "value": values * 1000},
        "rare": {name: yes.astype(int) for name, yes in rare.items()},
    }
    return pd.DataFrame(tables[task])


def runs_of(mask: np.ndarray) -> str:
    """Kaggle's run-length encoding (RLE) of a mask: column by column, counted from 1; written for clarity."""
    runs, length = [], 0
    flat = [*mask.T.ravel().tolist(), False]
    for place, inside in enumerate(flat):
        if inside:
            length += 1
        elif length:
            runs.append(f"{place - length + 1} {length}")
            length = 0
    return " ".join(runs)


def write_competition(
    raw: Path,
    solution: Path | None = None,
    n_train: int = 600,
    n_test: int | None = None,
    seed: int = 0,
    task: str = "multiclass",
) -> None:
    """Write the three tables and 32-pixel PNG files; ids are random and carry no information.

    `segmentation` has the ink as target, as RLE, on images of three shapes; `masks` has the ink of digits
    with and without a loop, as mask files with values 1 and 2 and one submission row per class. `retrieval`
    identifies the digit; eights and nines occur only in the test rows.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    if task == "retrieval":  # the training rows first, then shuffled rows
        known = order[digits.target[order] < 8][:n_train]
        rest = np.setdiff1d(order, known)
        order = np.concatenate([known, np.random.default_rng(seed + 2).permutation(rest)])
    order = order[: n_train + n_test] if n_test is not None else order
    pictured = task in ("segmentation", "masks")
    for folder in ("train_images", "test_images", *(("train_masks",) if task == "masks" else ())):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    ids = [
        f"{number:08x}" for number in np.random.default_rng(seed + 1).choice(2**32, len(order), replace=False)
    ]
    inks = []
    for place, row in enumerate(order):
        pixels = np.clip(digits.images[row] * 16, 0, 255).astype(np.uint8)
        size = [(32, 32), (40, 24), (28, 36)][place % 3] if pictured else (32, 32)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
        folder = "train" if place < n_train else "test"
        cv2.imwrite(str(raw / f"{folder}_images" / f"{ids[place]}.png"), pixels)
        inks.append(pixels > 110)
        if task == "masks" and place < n_train:
            kind = 2 if digits.target[row] in (0, 6, 8, 9) else 1
            cv2.imwrite(str(raw / "train_masks" / f"{ids[place]}.png"), inks[-1].astype(np.uint8) * kind)
    values = digits.target[order]
    if task == "segmentation":
        targets = pd.DataFrame({"rle": [runs_of(ink) for ink in inks]})
    elif task == "masks":
        loops, runs = np.isin(values, [0, 6, 8, 9]), np.array([runs_of(ink) for ink in inks], dtype=object)
        targets = pd.DataFrame({"plain": np.where(loops, "", runs), "loop": np.where(loops, runs, "")})
    elif task == "retrieval":
        targets = pd.DataFrame({"Id": [f"w_{value}" if value < 8 else "new_id" for value in values]})
    else:
        targets = targets_of(task, values, digits.images[order])
    table = pd.DataFrame({"id": ids}).join(targets)
    train, sample = table[:n_train], table[n_train:]
    if task == "masks":
        train, pairs = table[["id"]][:n_train], sample.melt("id", var_name="class", value_name="rle")
        pairs["id"] = pairs["id"] + "_" + pairs["class"]
        sample = pairs[["id", "rle"]].sort_values("id")
    solved = sample
    blank = {"segmentation": "", "masks": "", "retrieval": "new_id"}.get(task, 0)
    train.to_csv(raw / "train.csv", index=False)
    table.loc[n_train:, ["id"]].to_csv(raw / "test.csv", index=False)
    sample = sample.assign(**{name: blank for name in sample.columns if name != "id"})
    sample.to_csv(raw / "sample_submission.csv", index=False)
    if solution is not None:
        solution.parent.mkdir(parents=True, exist_ok=True)
        solved.to_csv(solution, index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", type=Path)
    parser.add_argument("--solution", type=Path)
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--task", default="multiclass", help="or another of write_competition")
    arguments = parser.parse_args()
    write_competition(arguments.raw, arguments.solution, n_train=arguments.train, task=arguments.task)
