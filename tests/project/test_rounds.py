"""When a round is kept, when the rounds end, what is shown of each, and how right its labels are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from src.artifacts import digest, read_json, write_json, write_parquet
from src.config import Config
from src.configfile import load_config
from src.maps import Maps
from src.metrics.retrieval import Ranking
from src.pseudo import rounds
from src.pseudo.labels import label_round
from src.pseudo.precision import correct_cells, estimated_precision
from src.pseudo.report import round_table, write_labels
from src.pseudo.select import select
from src.pseudo.verdict import round_verdict
from src.steps import round_of
from src.tasks import create_task
from src.training.launch import train_run

OUTPUTS = ["cat", "dog", "cow"]
TASK = create_task(Config())


def scored(cv: float | None, folds: list[float | None]) -> dict:
    return {"metric": "accuracy", "cv": cv, "standard_error": 0.01, "folds": folds}


def test_a_round_is_kept_where_its_gain_is_more_than_the_differences_standard_error():
    best = scored(0.80, [0.70, 0.80, 0.90])
    steady = round_verdict(scored(0.82, [0.72, 0.81, 0.93]), best, 1)
    error = np.std([0.02, 0.01, 0.03], ddof=1) / np.sqrt(3)
    assert (steady["gain"], steady["gain_error"]) == (pytest.approx(0.02), pytest.approx(error))
    assert steady["kept"]
    assert steady["why"].startswith("better than the best so far by more")
    shaky = round_verdict(scored(0.82, [0.90, 0.70, 0.86]), best, 1)
    assert not shaky["kept"]
    assert "no more than the standard error" in shaky["why"]
    assert not round_verdict(scored(0.80, [0.70, 0.80, 0.90]), best, 1)[
        "kept"
    ]  # nothing gained, nothing in doubt
    worse = round_verdict(scored(0.79, [0.69, 0.79, 0.89]), best, 1)
    assert (worse["kept"], worse["why"]) == (False, "not better than the best so far")


def test_of_an_error_less_is_better():
    best = scored(2.0, [1.0, 3.0])
    assert round_verdict(scored(1.8, [0.8, 2.8]), best, -1)["gain"] == pytest.approx(0.2)
    assert round_verdict(scored(1.8, [0.8, 2.8]), best, -1)["kept"]
    assert not round_verdict(scored(2.2, [1.2, 3.2]), best, -1)["kept"]


def test_a_cv_that_is_undefined_is_no_reason_to_keep_a_round():
    assert not round_verdict(scored(None, [None, None]), scored(0.8, [0.8, 0.8]), 1)["kept"]
    assert round_verdict(scored(0.5, [0.5, 0.5]), scored(None, [None, None]), 1)["kept"]
    one = round_verdict(scored(0.9, [0.9, None]), scored(0.8, [0.8, 0.8]), 1)  # one pair knows no error
    assert (one["kept"], one["gain_error"]) == (True, None)


# --- the recursion, with trainings that are made up ---------------------------------------------------------

SAID = np.random.default_rng(0).dirichlet([0.2] * 3, 60).astype(np.float32)


def said(step: int) -> pd.DataFrame:
    """Predictions that differ from those of another `step`."""
    return pd.DataFrame({"id": [f"t{i:02d}" for i in range(60)]}).join(
        pd.DataFrame(np.roll(SAID, step, axis=0), columns=OUTPUTS)
    )


@pytest.fixture
def base(tmp_path) -> Config:
    """A finished run of two folds."""
    write_json(tmp_path / "data/dataset.json", {"outputs": OUTPUTS})
    rows = pd.DataFrame({"id": [f"r{i}" for i in range(30)], "target": np.resize(OUTPUTS, 30)})
    rows = rows.assign(fold=np.arange(30) % 2, stop=0, group=np.arange(30))
    rows.to_csv(tmp_path / "data/folds.csv", index=False)
    for k in range(2):
        write_parquet(tmp_path / f"runs/base/fold{k}/test.parquet", said(0))
        mine = rows[rows["fold"] == k].drop(columns=["stop", "group"]).reset_index(drop=True)
        own = pd.DataFrame(SAID[15 * k : 15 * k + 15], columns=OUTPUTS)
        write_parquet(tmp_path / f"runs/base/fold{k}/oof.parquet", mine.join(own))
    write_parquet(tmp_path / "runs/base/test.parquet", said(0))
    write_json(tmp_path / "runs/base/metrics.json", scored(0.5, [0.5, 0.5]))
    return Config(root=tmp_path, name="base", cv={"n_folds": 2}, pseudo={"rounds": 4})


@pytest.fixture
def made_up(monkeypatch):
    """`made_up(config, scores, steps)`: round r scores `scores[r]` and says `said(steps[r])`; gives
    pseudo.json."""

    class Nothing:
        def done(self):
            pass

    def go(config: Config, scores: list[float], steps: list[int] | None = None) -> dict:
        def learn(run):
            number = int(run.name.rpartition("-round")[2])
            metrics = scored(scores[number - 1], [scores[number - 1]] * 2)
            write_json(run.folder / "metrics.json", metrics)
            for k in range(2):
                step = number if steps is None else steps[number - 1]
                write_parquet(run.fold_folder(k) / "test.parquet", said(step))
                oof = pd.read_parquet(config.root / f"runs/base/fold{k}/oof.parquet")
                write_parquet(run.fold_folder(k) / "oof.parquet", oof)
            return metrics

        step = Nothing()
        step.folder = config.root / "runs/base"
        monkeypatch.setattr(rounds, "pseudo_step", lambda config: step)
        monkeypatch.setattr(rounds, "_train_round", learn)
        rounds.label_recursively(config)
        return read_json(step.folder / "pseudo.json")

    return go


def test_the_rounds_go_on_while_each_beats_the_best_and_end_at_the_limit(base, made_up):
    report = made_up(base, [0.6, 0.7, 0.8, 0.9])
    assert [row["round"] for row in report["rounds"]] == [0, 1, 2, 3, 4]
    assert report["best"] == "base-round4"


def test_the_first_round_that_does_not_help_ends_them_and_is_not_kept(base, made_up, capsys):
    report = made_up(base, [0.6, 0.6, 0.9, 0.9])
    assert [row["kept"] for row in report["rounds"]] == [True, True, False]
    assert report["best"] == "base-round1"
    assert not (base.root / "runs/base-round3").exists()
    assert "not kept: not better than the best so far" in capsys.readouterr().out


def test_the_rounds_end_where_the_selection_stays_the_same(base, made_up, capsys):
    report = made_up(base, [0.6, 0.7, 0.8, 0.9], steps=[1, 1, 2, 3])
    assert [row["round"] for row in report["rounds"]] == [0, 1, 2]
    assert "base-round3: the same rows with the same labels as the round before" in capsys.readouterr().out


def test_a_threshold_may_differ_by_round_and_the_last_one_holds_on(base, made_up):
    config = base.model_copy(update={"pseudo": base.pseudo.model_copy(update={"threshold": (0.95, 0.6)})})
    report = made_up(config, [0.6, 0.7, 0.8, 0.9])
    for row, threshold in zip(report["rounds"][1:], (0.95, 0.6, 0.6, 0.6), strict=True):
        assert row["selected"] == (SAID.max(1) >= np.float32(threshold)).sum()
        assert f"from {threshold}" in row["rule"]


def test_every_round_is_told_with_its_prior_its_precision_and_the_verdict(base, made_up, capsys):
    report = made_up(base, [0.6, 0.5])
    first = report["rounds"][1]
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("base-round1: from 0.9; each fold labelled by its own model of base")
    assert lines[start + 1] == f"  selected    {first['selected']:.0f} of 60 unlabelled rows a fold"
    cells = [line.split()[-3:] for line in lines[start + 2 : start + 6]]
    sure = SAID[SAID.max(1) >= np.float32(0.9)].argmax(1)
    counts = np.bincount(sure, minlength=3)
    assert cells[0] == OUTPUTS
    assert cells[1] == ["0.333"] * 3
    assert cells[2] == [f"{round(share, 4):.3g}" for share in counts / len(sure)]
    assert cells[3] == [str(count) for count in counts]
    text = "\n".join(lines[start:])
    assert f"{first['precision']:.1%} expected, by {first['precision_of']} out-of-fold labels" in text
    assert "CV          accuracy 0.6000 ± 0.0100; +0.1000 ± 0.0000 to the best so far" in text
    assert "  kept: better than the best so far by more than the standard error" in text
    classes = pd.read_csv(base.root / "runs/base-round1/classes.csv")
    assert classes["class"].tolist() == OUTPUTS
    assert classes["rows"].tolist() == counts.tolist()


def test_every_label_of_a_round_is_kept_with_its_probability_and_source(base, made_up):
    made_up(base, [0.6, 0.5])
    for number, source in ((1, "base"), (2, "base-round1")):
        found = pd.read_parquet(base.root / f"runs/base-round{number}/labels.parquet")
        values = said(number - 1)
        for k, part in found.groupby("fold"):
            sure = values[values[OUTPUTS].max(axis=1) >= np.float32(0.9)]
            assert part["id"].tolist() == sure["id"].tolist()
            assert part["label"].tolist() == sure[OUTPUTS].idxmax(axis=1).tolist()
            np.testing.assert_allclose(part["confidence"], sure[OUTPUTS].max(axis=1))
            assert set(part["source"]) == {f"{source} fold {k}"}


def test_many_classes_are_shown_by_those_that_moved_most():
    names = [f"c{i}" for i in range(30)]
    after = dict.fromkeys(names, 1 / 30) | {"c7": 0.5}
    row = {"run": "r", "rule": "x", "selected": 3.0, "asked": 9, "external": 2.0, "agreement": 0.5}
    row |= {"precision": None, "labelled_share": dict.fromkeys(names, 1 / 30)}
    row |= {"class_share": after, "class_rows": after}
    row |= {"cv": None, "standard_error": None, "gain": None, "kept": False, "why": "its CV is undefined"}
    text = round_table(row, "auc")
    assert "c7" in text
    assert "20 more classes that moved less are in classes.csv" in text
    assert "3 of 9 unlabelled rows a fold, 2 of them external; 50.0% of those selected before too" in text
    assert "CV          auc -" in text


# --- what a round starts from -------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["scratch", "continue"])
def test_a_round_that_goes_on_begins_with_that_folds_own_weights(prepared, stage_here, start):
    settings = ("pseudo.threshold=0.104", "pseudo.rounds=1", "train.ema.enabled=false")
    for script in ("02_train.py", "03_oof_predict.py"):
        assert stage_here(prepared, script, *settings).returncode == 0
    more = (
        "train.lr=1e-9",
        "train.min_lr=0",
        f"pseudo.start={start}",
    )  # nothing is learned: weights stay as they began
    run = round_of(load_config(prepared / "configs/baseline.yaml", [*settings, *more]), 1)
    label_round(run, create_task(run.config), (0, 1))
    train_run(run, (0, 1))
    for k in (0, 1):
        before, after = (
            load_file(prepared / f"runs/{name}/fold{k}/model.safetensors")
            for name in ("baseline", "baseline-round1")
        )
        learned = [name for name in before if not name.rpartition(".")[2].startswith(("running", "num_"))]
        apart = max(float((before[name] - after[name]).abs().max()) for name in learned)
        assert (apart < 1e-6) == (start == "continue")
        stamp = read_json(run.fold_folder(k) / "train.stamp.json")
        whole = digest(prepared / f"runs/baseline/fold{k}/model.safetensors")
        assert stamp["recipe"]["inputs"].get("start") == (whole if start == "continue" else None)


@pytest.mark.parametrize("number", [1, 2])
def test_each_fold_goes_on_from_its_own_model_of_the_round_before(tmp_path, number):
    config = Config(root=tmp_path, name="base", pseudo={"start": "continue"})
    before = {1: "base", 2: "base-round1"}[number]
    assert round_of(config, number).start(3) == tmp_path / f"runs/{before}/fold3/model.safetensors"
    assert round_of(config, 0).start(3) is None
    assert round_of(Config(root=tmp_path, name="base"), number).start(3) is None


# --- how right ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [None, 24])
def test_the_precision_is_that_of_the_same_rule_on_out_of_fold_rows(base, cap):
    """A cap of 24 of 60 unlabelled rows is one of 6 of 15 out-of-fold rows."""
    config = base.model_copy(update={"pseudo": base.pseudo.model_copy(update={"threshold": 0.6, "cap": cap})})
    right = told = 0
    for k in range(2):
        oof = pd.read_parquet(base.root / f"runs/base/fold{k}/oof.parquet")
        oof["sure"], oof["label"] = oof[OUTPUTS].max(axis=1), oof[OUTPUTS].idxmax(axis=1)
        oof = oof[oof["sure"] >= np.float32(0.6)].sort_values("sure", ascending=False, kind="stable")
        oof = oof if cap is None else oof.groupby("label").head(6)
        right, told = right + (oof["label"] == oof["target"]).sum(), told + len(oof)
    found = estimated_precision(round_of(config, 1), TASK, OUTPUTS, (0, 1), 60)
    assert found == (pytest.approx(right / told), told)


def test_labels_are_judged_cell_by_cell_and_the_unknown_ones_not_at_all():
    task = create_task(Config(task={"name": "multilabel"}))
    chosen = pd.DataFrame({"id": ["a", "b"], "cat": [0.95, 0.03], "dog": [np.nan, 0.97]})
    truth = pd.DataFrame({"cat": ["1", "1"], "dog": ["0", "1"]})
    assert correct_cells(chosen, truth, task, ["cat", "dog"]).tolist() == [True, False, True]


def test_an_identity_is_judged_by_the_first_answer():
    task = create_task(Config(task={"name": "retrieval"}, data={"new_label": "new"}))
    table = task.write(Ranking([["cat"], ["dog"], ["cow"]], [[0.9]] * 3), OUTPUTS)
    truth = pd.DataFrame({"target": ["cat", "new", "cow"]})
    assert correct_cells(table, truth, task, OUTPUTS).tolist() == [True, False, True]


def test_masks_are_judged_pixel_by_pixel():
    task = create_task(Config(task={"name": "segmentation"}))
    told = np.array([[[[250, 3], [128, 240]]]], np.uint8)
    table = task.write(Maps.of(told).resized([(4, 4)]), ["mask"])
    inside = np.kron([[1, 0], [0, 0]], np.ones((2, 2))).astype(np.uint8) * 255
    truth = pd.DataFrame({"target": [Maps.of(inside[None, None]).cells[0][0]]})
    assert correct_cells(table, truth, task, ["mask"]).tolist() == [True, True, False]


def test_numbers_have_no_precision(base):
    task = create_task(Config(task={"name": "regression"}))
    assert estimated_precision(round_of(base, 1), task, ["age"], (0, 1), 60) == (None, 0)


def test_labels_of_several_are_told_by_name(tmp_path):
    task, names = create_task(Config(task={"name": "multilabel"})), ["cat", "dog"]
    run = round_of(Config(root=tmp_path, name="base", cv={"n_folds": 2}, task={"name": "multilabel"}), 1)
    table = pd.DataFrame({"id": ["a"], "cat": [0.97], "dog": [0.5]}).astype({"cat": "float32"})
    for k in range(2):
        write_parquet(run.pseudo_labels(k), select(table, task, names, run.config.pseudo))
    write_labels(run, task, names, (0, 1))
    assert pd.read_parquet(run.folder / "labels.parquet")["label"].tolist() == ["cat=1", "cat=1"]
