"""Which test rows are selected, what they are called, and when the rounds end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from src.artifacts import write_json, write_parquet
from src.config import Config, Pseudo
from src.pseudo.rounds import best_run, label_round
from src.pseudo.select import agreement, select
from src.steps import round_of
from src.tasks import create_task

OUTPUTS = ["cat", "dog", "cow"]
TASK = create_task(Config())


def predictions(n: int = 200, seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).dirichlet([0.2] * 3, n).astype(np.float32)
    table = pd.DataFrame(values, columns=OUTPUTS)
    table.insert(0, "id", [f"{i:05d}" for i in range(n)])
    return table


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_selection_equals_a_loop_over_the_rows(threshold, labels):
    table = predictions()
    chosen = select(table, TASK, OUTPUTS, Pseudo(threshold=threshold, labels=labels))
    wanted = []
    for _, row in table.iterrows():
        values = [row[name] for name in OUTPUTS]
        if max(values) >= np.float32(threshold):
            hard = [float(v == max(values)) for v in values]
            wanted.append([row["id"], max(values), *(hard if labels == "hard" else values)])
    assert len(wanted) > 10
    pd.testing.assert_frame_equal(
        chosen, pd.DataFrame(wanted, columns=["id", "confidence", *OUTPUTS]), check_dtype=False
    )


def test_agreement_counts_the_rows_selected_both_times():
    now = pd.DataFrame({"id": ["a", "b", "c"], "cat": [1, 0, 1], "dog": [0, 1, 0], "cow": [0, 0, 0]})
    then = pd.DataFrame({"id": ["b", "c", "d"], "cat": [0, 0, 1], "dog": [1, 0, 0], "cow": [0, 1, 0]})
    assert agreement(now, then, OUTPUTS) == pytest.approx(1 / 2)  # b kept its label, c did not
    assert agreement(now, None, OUTPUTS) is None
    assert agreement(now, then[:0], OUTPUTS) is None


@pytest.fixture
def root(tmp_path):
    write_json(tmp_path / "data/dataset.json", {"outputs": OUTPUTS})
    for name in ("base", "base-round1"):
        for k in range(2):
            write_parquet(tmp_path / f"runs/{name}/fold{k}/test.parquet", predictions(seed=k))
    return tmp_path


def test_a_round_with_the_same_rows_and_labels_is_told_as_unchanged(root):
    config = Config(root=root, name="base", cv={"n_folds": 2})
    assert not label_round(round_of(config, 1), TASK, (0, 1))["unchanged"]
    second = label_round(round_of(config, 2), TASK, (0, 1))
    assert second["unchanged"]
    assert second["agreement"] == 1.0


def test_the_class_shares_of_a_selection_are_told_and_add_to_one(root):
    row = label_round(round_of(Config(root=root, name="base", cv={"n_folds": 2}), 1), TASK, (0, 1))
    tables = [pd.read_parquet(root / f"runs/base-round1/fold{k}.pseudo.parquet") for k in range(2)]
    assert row["selected"] == sum(len(table) for table in tables) / 2
    labels = np.concatenate([table[OUTPUTS].to_numpy().argmax(1) for table in tables])
    shares = [np.mean(labels == c) for c in range(3)]
    assert [row["class_share"][name] for name in OUTPUTS] == pytest.approx(shares, abs=1e-4)
    assert sum(row["class_share"].values()) == pytest.approx(1, abs=1e-3)


def test_a_label_is_withdrawn_when_its_model_is_no_longer_sure(root):
    config = Config(root=root, name="base", cv={"n_folds": 2})
    label_round(round_of(config, 1), TASK, (0, 1))
    doubtful = predictions(seed=0)
    doubtful.loc[:99, OUTPUTS] = [0.4, 0.3, 0.3]
    write_parquet(root / "runs/base-round1/fold0/test.parquet", doubtful)
    label_round(round_of(config, 2), TASK, (0, 1))
    rounds = [pd.read_parquet(root / f"runs/base-round{r}/fold0.pseudo.parquet") for r in (1, 2)]
    assert any(rounds[0]["id"] < "00100")
    assert not any(rounds[1]["id"] < "00100")


def test_the_best_run_is_the_last_one_kept():
    report = [
        {"run": "b", "kept": True},
        {"run": "b-round1", "kept": True},
        {"run": "b-round2", "kept": False},
    ]
    assert best_run(report) == "b-round1"
