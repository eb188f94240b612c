"""Which test rows are selected, what they are called, and when the rounds end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.isotonic import IsotonicRegression

from src.artifacts import write_json, write_parquet
from src.config import Config, Pseudo
from src.maps import Maps
from src.metrics.retrieval import Ranking
from src.pseudo.labels import label_round
from src.pseudo.outcome import best_run
from src.pseudo.select import agreement, label_shares, same_selection, select
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
    assert agreement(now, then, TASK, OUTPUTS) == pytest.approx(1 / 2)  # b kept its label, c did not
    assert agreement(now, None, TASK, OUTPUTS) is None
    assert agreement(now, then[:0], TASK, OUTPUTS) is None


def task_of(name: str):
    return create_task(Config(task={"name": name}))


def told(ids: str, **columns: list[float]) -> pd.DataFrame:
    """A selection table."""
    return pd.DataFrame({"id": list(ids), "confidence": 0.95} | columns)


def test_labels_are_selected_one_by_one_and_the_unsure_ones_are_written_as_unknown():
    values = np.random.default_rng(0).random((300, 3)).astype(np.float32)
    values[0], values[1] = [0.9, 0.1, 0.5], [0.89, 0.11, 0.5]
    table = pd.DataFrame(values, columns=OUTPUTS)
    table.insert(0, "id", [f"{i:05d}" for i in range(300)])
    for labels in ("soft", "hard"):
        found = select(table, task_of("multilabel"), OUTPUTS, Pseudo(labels=labels))
        wanted = []
        for _, row in table.iterrows():
            cells, sure = [], []
            for name in OUTPUTS:
                p = row[name]
                if p >= np.float32(0.9) or p <= np.float32(0.1):
                    cells.append(float(p >= 0.5) if labels == "hard" else p)
                    sure.append(max(p, 1 - p))
                else:
                    cells.append(np.nan)
            if sure:
                wanted.append([row["id"], np.mean(sure), *cells])
        assert wanted[0][0] == "00000"
        assert wanted[1][0] != "00001"
        expected = pd.DataFrame(wanted, columns=["id", "confidence", *OUTPUTS])
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_of_one_probability_a_sure_no_is_selected_like_a_sure_yes(labels):
    values = np.random.default_rng(0).random(300).astype(np.float32)
    values[:4] = [0.9, 0.1, 0.89, 0.11]
    table = pd.DataFrame({"id": [f"{i:05d}" for i in range(300)], "yes": values})
    found = select(table, task_of("binary"), ["yes"], Pseudo(labels=labels))
    wanted = []
    for name, p in zip(table["id"], values, strict=True):
        sure = p if p >= 0.5 else 1 - p
        if sure >= np.float32(0.9):
            wanted.append([name, sure, float(p >= 0.5) if labels == "hard" else p])
    assert [row[0] for row in wanted[:2]] == ["00000", "00001"]
    assert wanted[2][0] not in ("00002", "00003")
    expected = pd.DataFrame(wanted, columns=["id", "confidence", "yes"])
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_numbers_are_selected_by_the_spread_that_stands_beside_them():
    random = np.random.default_rng(0)
    table = pd.DataFrame({"id": [f"{i}" for i in range(41)], "age": random.normal(40, 10, 41)})
    table["spread"] = random.permutation(41) / 10
    found = select(table, task_of("regression"), ["age"], Pseudo(quantile=0.25))
    expected = table[table["spread"] <= np.quantile(table["spread"], 0.25)]
    assert found["id"].tolist() == expected["id"].tolist()
    assert list(found.columns) == ["id", "confidence", "age"]
    np.testing.assert_allclose(found["age"], expected["age"], rtol=1e-6)
    larger = [(table["spread"] > spread).sum() / 40 for spread in expected["spread"]]
    np.testing.assert_allclose(found["confidence"], larger)


def test_labels_agree_where_both_rounds_were_sure_and_said_the_same():
    task, names, unknown = task_of("multilabel"), ["cat", "dog"], np.nan
    now = told("abcd", cat=[0.95, 0.05, unknown, 0.97], dog=[unknown, 0.02, 0.96, 0.04])
    then = told("abce", cat=[0.99, 0.98, 0.01, 0.97], dog=[0.03, 0.01, 0.92, 0.04])
    # a: its cat the same, its dog not known now; b: its cat changed; c: its dog the same; d and e: once only
    assert agreement(now, then, task, names) == pytest.approx(2 / 3)


def test_of_one_probability_both_sides_of_a_half_are_what_was_told():
    task = task_of("binary")
    now, then = told("abc", yes=[0.95, 0.04, 0.93]), told("abc", yes=[0.91, 0.97, 0.99])
    assert agreement(now, then, task, ["yes"]) == pytest.approx(2 / 3)
    assert label_shares([now, then], task, ["yes"]) == {"yes": pytest.approx(5 / 6, abs=1e-4)}


def test_numbers_never_agree_exactly_so_nothing_is_told_of_it():
    task, now = task_of("regression"), told("ab", age=[1.0, 2.0])
    assert agreement(now, now, task, ["age"]) is None
    assert label_shares([now, told("c", age=[6.0])], task, ["age"]) == {"age": 3.0}


def test_two_selections_are_the_same_with_the_same_rows_told_the_same():
    task, names, unknown = task_of("multilabel"), ["cat", "dog"], np.nan
    first = told("ab", cat=[0.95, unknown], dog=[0.02, 0.97])
    assert same_selection(first, told("ab", cat=[0.99, unknown], dog=[0.08, 0.91]), task, names)
    assert not same_selection(first, None, task, names)
    assert not same_selection(first, told("ab", cat=[0.99, 0.95], dog=[0.08, 0.91]), task, names)
    assert not same_selection(first, told("ab", cat=[0.05, unknown], dog=[0.08, 0.91]), task, names)
    assert not same_selection(first, told("ac", cat=[0.99, unknown], dog=[0.08, 0.91]), task, names)
    numbers = told("ab", age=[1.0, 2.0])
    assert same_selection(numbers, numbers.copy(), task_of("regression"), ["age"])
    assert not same_selection(numbers, told("ab", age=[1.0, 2.01]), task_of("regression"), ["age"])


def test_the_share_of_a_label_is_over_the_rows_that_were_told_it():
    task, unknown = task_of("multilabel"), np.nan
    tables = [told("abc", cat=[0.95, unknown, 0.05], dog=[unknown] * 3), told("d", cat=[0.02], dog=[unknown])]
    assert label_shares(tables, task, ["cat", "dog"]) == {"cat": pytest.approx(1 / 3, abs=1e-4), "dog": 0.0}
    assert label_shares([tables[0][:0]], task, ["cat", "dog"]) == {"cat": 0.0, "dog": 0.0}


# --- whom an image shows, and masks -------------------------------------------------------------------------

RETRIEVAL = create_task(Config(task={"name": "retrieval"}, data={"new_label": "new"}))
SEGMENTATION = create_task(Config(task={"name": "segmentation"}))


def ranked(n: int = 80, seed: int = 0, lift: float = 0.0) -> pd.DataFrame:
    """Rows whose first answer is the righter the higher its cosine, as 03 writes them, with the truth."""
    rng = np.random.default_rng(seed)
    cosines = rng.random(n)
    first = rng.choice(OUTPUTS, n)
    truth = np.where(rng.random(n) < cosines, first, "new")
    second = np.array(OUTPUTS)[(np.searchsorted(sorted(OUTPUTS), first) + 1) % 3]
    lists = Ranking(
        np.stack([first, second], 1).tolist(), np.stack([cosines + lift, cosines - 1], 1).tolist()
    )
    table = pd.DataFrame({"id": [f"{i:03d}" for i in range(n)], "target": truth})
    return table.join(RETRIEVAL.write(lists, OUTPUTS))


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_a_query_is_selected_by_the_probability_that_its_cosine_stood_for_on_the_rows_that_are_known(
    threshold,
):
    known, asked = ranked(200), ranked(60, seed=1).drop(columns="target")
    cosines = np.array([row[0] for row in known["similarity"]])
    right = np.array([row[0] for row in known["candidates"]]) == known["target"]
    curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(cosines, right.astype(float))
    chance = curve.predict(np.array([row[0] for row in asked["similarity"]]))
    found = select(asked, RETRIEVAL, OUTPUTS, Pseudo(threshold=threshold), known)
    sure = chance >= threshold
    assert 5 < sure.sum() < 55
    assert found["id"].tolist() == asked["id"][sure].tolist()
    np.testing.assert_allclose(found["confidence"], chance[sure])
    assert [row.tolist() for row in found["candidates"].map(np.array)] == [
        [row[0]] for row in asked["candidates"][sure]
    ]
    lifted = select(ranked(60, seed=1, lift=0.3), RETRIEVAL, OUTPUTS, Pseudo(threshold=threshold), known)
    assert set(found["id"]) < set(lifted["id"])


def test_two_rounds_agree_on_a_query_that_keeps_its_identity():
    def said(ids: str, names: list[str]) -> pd.DataFrame:
        lists = Ranking([[name] for name in names], [[0.9]] * len(names))
        table = pd.DataFrame({"id": list(ids), "confidence": 0.95})
        return table.join(RETRIEVAL.write(lists, OUTPUTS))

    now, then = said("abc", ["cat", "dog", "cow"]), said("bcd", ["dog", "cat", "cat"])
    assert agreement(now, then, RETRIEVAL, OUTPUTS) == pytest.approx(1 / 2)
    assert same_selection(now, said("abc", ["cat", "dog", "cow"]), RETRIEVAL, OUTPUTS)
    assert not same_selection(now, said("abc", ["cat", "cat", "cow"]), RETRIEVAL, OUTPUTS)
    found = label_shares([now, then], RETRIEVAL, OUTPUTS)
    assert found == {"cat": 0.5, "dog": pytest.approx(1 / 3, abs=1e-4), "cow": pytest.approx(1 / 6, abs=1e-4)}


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_an_image_is_selected_by_its_share_of_sure_pixels_and_the_others_are_unsure(labels):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (30, 2, 6, 8)).astype(np.uint8)
    calm = np.arange(30) % 3 == 0
    levels[calm] = np.where(levels[calm] > 99, 250, 3)
    levels[calm, :, 0, 0] = 128
    table = pd.DataFrame({"id": [f"{i:02d}" for i in range(30)]})
    table = table.join(SEGMENTATION.write(Maps.of(levels).resized([(12, 16)] * 30), ["cell", "wall"]))
    found = select(table, SEGMENTATION, ["cell", "wall"], Pseudo(threshold=0.9, labels=labels, pixels=0.9))
    assert found["id"].tolist() == table["id"][calm].tolist()
    np.testing.assert_allclose(found["confidence"], 94 / 96)
    assert list(found.columns) == ["id", "confidence", "height", "width", "cell", "wall"]
    told = SEGMENTATION.read(found, ["cell", "wall"])
    assert told.sizes == [(12, 16)] * 10
    for maps, own in zip(told.resized(None), levels[calm], strict=True):
        sure = (own >= 0.9 * 255) | (own <= 0.1 * 255)
        hard = np.where(own >= 128, 255, 0)
        np.testing.assert_array_equal(maps, np.where(sure, hard if labels == "hard" else own, 128))


def test_masks_never_agree_exactly_so_nothing_is_told_of_it():
    table = pd.DataFrame({"id": ["a"], "confidence": [0.9]})
    table = table.join(
        SEGMENTATION.write(Maps.of(np.full((1, 1, 4, 4), 255, np.uint8)).resized([(4, 4)]), ["mask"])
    )
    assert agreement(table, table, SEGMENTATION, ["mask"]) is None
    assert label_shares([table], SEGMENTATION, ["mask"]) == {"mask": 1.0}
    assert same_selection(table, table.copy(), SEGMENTATION, ["mask"])


def test_a_round_of_identities_reads_what_was_said_without_the_folds_own_rows(tmp_path):
    """test.parquet looked among all rows, the fold's own labels too."""
    write_json(tmp_path / "data/dataset.json", {"outputs": OUTPUTS})
    for k in range(2):
        own = tmp_path / f"runs/base/fold{k}"
        write_parquet(own / "stop.parquet", ranked(200, seed=k))
        write_parquet(own / "blind.parquet", ranked(60, seed=10 + k).drop(columns="target"))
        write_parquet(own / "test.parquet", ranked(60, seed=20 + k).drop(columns="target"))
    config = Config(
        root=tmp_path,
        name="base",
        task={"name": "retrieval"},
        data={"new_label": "new"},
        cv={"n_folds": 2},
        pseudo={"threshold": 0.6},
    )
    run = round_of(config, 1)
    row = label_round(run, RETRIEVAL, (0, 1))
    for k in range(2):
        known, asked = ranked(200, seed=k), ranked(60, seed=10 + k).drop(columns="target")
        expected = select(asked, RETRIEVAL, OUTPUTS, config.pseudo, known)
        found = pd.read_parquet(run.pseudo_labels(k))
        assert found["id"].tolist() == expected["id"].tolist()
        np.testing.assert_allclose(found["confidence"], expected["confidence"])
    assert row["selected"] > 5
    assert not row["unchanged"]


# --- rounds -------------------------------------------------------------------------------------------------


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
