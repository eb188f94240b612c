"""The six stages on a small real competition: what they write, when they do nothing, and what a change makes
again."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import processes
import pytest
from conftest import ROOT, call_all, call_stage, write_config

STAGES = [path.name for path in sorted(ROOT.glob("0?_*.py"))]
EASY = ("pseudo.threshold=0.104", "train.ema.enabled=false")  # a model of one epoch is sure of little


@pytest.fixture(scope="module")
def finished(untouched_prepared_project, tmp_path_factory):
    """A project after all six stages, run once; copied or only looked at."""
    import shutil

    folder = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(untouched_prepared_project, folder)
    for script in STAGES:
        done = processes.run([sys.executable, ROOT / script, *EASY], cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished project to change."""
    import shutil

    return shutil.copytree(finished, tmp_path / "copy")


def test_there_are_six_scripts_of_forty_lines_at_most():
    assert [name[:2] for name in STAGES] == ["01", "02", "03", "04", "05", "06"]
    assert max(len((ROOT / name).read_text().splitlines()) for name in STAGES) <= 40


def test_oof_tables_hold_every_training_row_once_in_the_order_of_train_csv(finished):
    train = pd.read_csv(finished / "data/raw/train.csv", dtype=str)
    folds = pd.read_csv(finished / "data/folds.csv", dtype=str)
    oof = pd.read_parquet(finished / "runs/baseline/oof.parquet")
    assert oof["id"].tolist() == train["id"].tolist()
    assert oof["target"].tolist() == train["label"].tolist()
    assert oof["fold"].astype(str).tolist() == folds["fold"].tolist()
    assert list(oof.columns) == ["id", "fold", "target", *"0123456789"]
    np.testing.assert_allclose(oof[list("0123456789")].sum(axis=1), 1, atol=1e-5)


def test_test_tables_are_the_mean_of_the_folds_in_the_order_of_test_csv(finished):
    run, columns = finished / "runs/baseline", list("0123456789")
    test = pd.read_parquet(run / "test.parquet")
    assert test["id"].tolist() == pd.read_csv(finished / "data/raw/test.csv", dtype=str)["id"].tolist()
    folds = [pd.read_parquet(run / f"fold{k}/test.parquet")[columns].to_numpy() for k in range(2)]
    np.testing.assert_allclose(test[columns], np.mean(folds, 0), atol=1e-6)


def test_the_printed_cv_is_the_metric_of_the_oof_table(finished):
    oof = pd.read_parquet(finished / "runs/baseline/oof.parquet")
    right = oof[list("0123456789")].to_numpy().argmax(1) == oof["target"].astype(int)
    metrics = json.loads((finished / "runs/baseline/metrics.json").read_text())
    assert metrics["cv"] == pytest.approx(right.mean())
    assert metrics["folds"] == pytest.approx(right.groupby(oof["fold"]).mean().tolist())


def test_a_table_that_was_damaged_is_named_and_made_again_by_the_command_that_is_named(copy):
    table, stack = copy / "runs/baseline/test.parquet", (copy / "stacks/stack/oof.parquet").read_bytes()
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    done = call_stage(copy, "05_stack.py", *EASY, "stack.members=[baseline]")
    assert done.returncode == 2
    assert "runs/baseline/test.parquet" in done.stderr
    assert "make oof EXP=baseline" in done.stderr
    assert (copy / "stacks/stack/oof.parquet").read_bytes() == stack
    assert call_stage(copy, "03_oof_predict.py", *EASY).returncode == 0
    assert table.read_bytes() == whole
    assert "up to date" in call_stage(copy, "05_stack.py", *EASY).stdout


def test_every_round_of_pseudo_labels_keeps_its_own_tables_and_scores(finished):
    rounds = json.loads((finished / "runs/baseline/pseudo.json").read_text())["rounds"]
    assert [row["run"] for row in rounds] == ["baseline", "baseline-round1", "baseline-round2"][: len(rounds)]
    assert len(rounds) == 3 or not rounds[-1]["kept"]
    for row in rounds[1:]:
        folder = finished / "runs" / row["run"]
        assert json.loads((folder / "metrics.json").read_text())["cv"] == row["cv"]
        assert all((folder / f"fold{k}.pseudo.parquet").exists() for k in range(2))


def test_a_round_that_does_not_help_is_not_kept_and_is_no_member_of_the_stack(finished):
    rounds = json.loads((finished / "runs/baseline/pseudo.json").read_text())
    kept = ["baseline"]
    for row in rounds["rounds"][1:]:
        both = [
            json.loads((finished / f"runs/{run}/metrics.json").read_text()) for run in (row["run"], kept[-1])
        ]
        differences = np.subtract(both[0]["folds"], both[1]["folds"])
        gain, error = both[0]["cv"] - both[1]["cv"], differences.std(ddof=1) / np.sqrt(2)
        assert (row["gain"], row["gain_error"]) == (pytest.approx(gain), pytest.approx(error))
        assert row["kept"] == (gain > error)
        kept += [row["run"]] if row["kept"] else []
    members = json.loads((finished / "stacks/stack/metrics.json").read_text())["members"]
    assert sorted(members) == sorted(kept)
    assert rounds["best"] == kept[-1]


def test_the_submission_has_the_samples_rows_and_columns_and_says_where_it_came_from(finished):
    sample = pd.read_csv(finished / "data/raw/sample_submission.csv", dtype=str)
    table = pd.read_csv(finished / "submissions/stack.csv", dtype=str)
    assert list(table.columns) == list(sample.columns)
    assert table["id"].tolist() == sample["id"].tolist()
    assert set(table["label"]) <= set("0123456789")
    origin = json.loads((finished / "submissions/stack.json").read_text())
    stack = json.loads((finished / "stacks/stack/metrics.json").read_text())
    assert (origin["cv"], origin["source"]) == (stack["cv"], "stacks/stack")


def test_one_process_for_all_stages_writes_the_same_bytes_as_six(finished, prepared, snapshot):
    done = call_all(prepared, "baseline", *EASY)
    assert done.returncode == 0, done.stderr
    kinds = (".safetensors", ".parquet", "metrics.json", "stacker.json", "stack.csv")
    for folder in ("runs", "stacks", "submissions"):
        alone, together = (
            {path: found for path, found in snapshot(project / folder).items() if path.endswith(kinds)}
            for project in (finished, prepared)
        )
        assert alone
        assert together == alone


@pytest.mark.parametrize("script", STAGES)
def test_a_stage_run_again_says_up_to_date_and_writes_nothing(script, copy, stage_here, snapshot):
    before = snapshot(copy)
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    again = stage_here(copy, script, *EASY)
    assert again.returncode == 0, again.stderr
    assert "up to date" in again.stdout
    assert snapshot(copy) == before
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == times


@pytest.mark.parametrize("script", STAGES)
def test_help_and_an_up_to_date_stage_import_nothing_heavy(script, finished):
    heavy = ["torch", "timm", "pandas", "sklearn", "lightgbm", "albumentations", "cv2", "wandb", "scipy"]
    for arguments in (["--help"], list(EASY)):
        code = (
            f"import sys, runpy; sys.argv = {[str(ROOT / script), *arguments]!r}\n"
            f"try: runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
            f"except SystemExit as stop: assert not stop.code, stop.code\n"
            f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])"
        )
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
        done = processes.run(command, cwd=finished)
        assert done.stdout.splitlines()[-1:] == ["HEAVY []"], done.stdout[-500:] + done.stderr


def made(folder):
    """Which artefacts there are, with the time each was written."""
    names = ("images.npy", "folds.csv", "model.safetensors", "oof.parquet", "metrics.json")
    files = [path for name in names for path in folder.rglob(name) if ".previous" not in str(path)]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


def rewritten(before, after):
    return {path for path in after if after[path] != before.get(path)}


def test_a_learning_rate_trains_again_and_leaves_images_and_folds_alone(copy, stage_here):
    before = made(copy)
    for script in STAGES[:3]:
        assert stage_here(copy, script, *EASY, "train.lr=1e-3").returncode == 0
    changed = rewritten(before, made(copy))
    assert {p for p in changed if p.startswith("runs/baseline/")} >= {
        f"runs/baseline/fold{k}/{name}" for k in range(2) for name in ("model.safetensors", "oof.parquet")
    }
    assert not {p for p in changed if p.startswith("data/")}


def test_an_image_size_packs_and_trains_again_and_keeps_the_folds(copy, stage_here):
    before, folds = made(copy), (copy / "data/folds.csv").read_bytes()
    for script in STAGES[:2]:
        assert stage_here(copy, script, *EASY, "data.image_size=24").returncode == 0
    changed = rewritten(before, made(copy))
    assert {p.split("/")[2] for p in changed if p.startswith("data/cache")} == {"24px-stretch"}
    assert "runs/baseline/fold0/model.safetensors" in changed
    assert "data/folds.csv" not in changed
    assert (copy / "data/folds.csv").read_bytes() == folds


def test_a_fold_count_cuts_and_trains_again_and_keeps_the_images(copy, stage_here):
    before = made(copy)
    for script in STAGES[:2]:
        assert stage_here(copy, script, *EASY, "cv.n_folds=3").returncode == 0
    changed = rewritten(before, made(copy))
    assert "data/folds.csv" in changed
    assert {f"runs/baseline/fold{k}/model.safetensors" for k in range(3)} <= changed
    assert not {p for p in changed if p.startswith("data/cache")}


def test_tta_predicts_again_and_trains_nothing(copy, stage_here):
    before = made(copy)
    assert stage_here(copy, STAGES[2], *EASY, "inference.tta=[identity,left]").returncode == 0
    changed = rewritten(before, made(copy))
    assert "runs/baseline/fold0/oof.parquet" in changed
    assert not {p for p in changed if p.endswith("model.safetensors")}


def test_an_override_given_by_mistake_does_not_cost_the_earlier_models(copy, stage_here, snapshot):
    before = snapshot(copy / "runs/baseline")
    assert stage_here(copy, STAGES[1], *EASY, "train.lr=1e-3").returncode == 0
    assert snapshot(copy / "runs/baseline")["fold0/model.safetensors"] != before["fold0/model.safetensors"]
    back = stage_here(copy, STAGES[1], *EASY)
    assert back.returncode == 0
    after = snapshot(copy / "runs/baseline")
    assert after["fold0/model.safetensors"] == before["fold0/model.safetensors"]
    assert after["fold0/history.csv"] == before["fold0/history.csv"]  # brought back: its seconds are the same


@pytest.mark.parametrize(("argument", "trained"), [("fold=1", {1}), ("folds=[0]", {0})])
def test_chosen_folds_are_trained_alone(argument, trained, prepared, stage_here):
    done = stage_here(prepared, STAGES[1], argument)
    assert done.returncode == 0, done.stderr
    assert {int(path.parent.name[-1]) for path in prepared.rglob("model.safetensors")} == trained
    scored = stage_here(prepared, STAGES[2], argument)
    assert scored.returncode == 0, scored.stderr
    assert f"fold {min(trained)}: accuracy" in scored.stdout
    assert not (prepared / "runs/baseline/metrics.json").exists()


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("02_train.py", "run `make folds EXP=baseline` first"),
        ("03_oof_predict.py", "run `make folds EXP=baseline` first"),
        ("05_stack.py", "stack.members: '*' matches no run"),
        ("06_submit.py", "run `make stack` first"),
    ],
)
def test_a_stage_before_its_turn_names_the_command_to_run(script, says, project, stage_here):
    done = stage_here(project, script)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_predicting_before_training_names_the_command_to_run(prepared, stage_here):
    done = stage_here(prepared, "03_oof_predict.py")
    assert done.returncode == 2
    assert "baseline fold 0: not trained yet; run `make train EXP=baseline`" in done.stderr


def test_predicting_with_other_settings_than_the_trained_ones_names_them(copy, stage_here, snapshot):
    before = snapshot(copy)
    done = stage_here(copy, "03_oof_predict.py", *EASY, "train.epochs=9")
    assert done.returncode == 2
    assert "train.epochs 1 -> 9" in done.stderr
    assert snapshot(copy) == before


def test_later_stages_obey_folds_csv_and_never_cut_folds_again(prepared, stage_here, monkeypatch):
    """Trap: one seed gives other folds under another scikit-learn, so the file is the truth."""
    import sklearn.model_selection as splitters

    for name in ("KFold", "StratifiedKFold", "GroupKFold", "StratifiedGroupKFold"):
        monkeypatch.setattr(splitters, name, None)
    for script in STAGES[1:3]:
        assert stage_here(prepared, script).returncode == 0
    folds = pd.read_csv(prepared / "data/folds.csv", dtype=str)
    for k in range(2):
        oof = pd.read_parquet(prepared / f"runs/baseline/fold{k}/oof.parquet")
        assert oof["id"].tolist() == folds.loc[folds["fold"] == str(k), "id"].tolist()


def test_a_student_learns_from_its_teacher_and_needs_it_trained_first(copy, stage_here):
    write_config(
        copy,
        "student",
        "base: baseline\nmodel: {backbone: test_efficientnet}\ndistill: {teacher: baseline}\n",
    )
    taught = stage_here(copy, STAGES[1], *EASY, config="student")
    assert taught.returncode == 0, taught.stderr
    alone = stage_here(copy, STAGES[1], *EASY, "distill.teacher=null", "name=alone", config="student")
    assert alone.returncode == 0, alone.stderr
    losses = [
        pd.read_csv(copy / f"runs/{run}/fold0/history.csv")["train_loss"][0] for run in ("student", "alone")
    ]
    assert losses[0] != losses[1]
    lost = stage_here(copy, STAGES[1], *EASY, "distill.teacher=nobody", config="student")
    assert lost.returncode == 2
    assert "run `make train EXP=nobody` first" in lost.stderr


def test_nothing_sure_enough_ends_the_rounds_without_an_error(copy, stage_here):
    done = stage_here(copy, "04_pseudo_label.py", *EASY, "pseudo.threshold=0.999999")
    assert done.returncode == 0, done.stderr
    assert "no unlabelled row reaches 0.999999" in done.stdout
    assert json.loads((copy / "runs/baseline/pseudo.json").read_text())["best"] == "baseline"


def test_without_rounds_it_is_said_that_there_is_nothing_to_do(copy, stage_here, monkeypatch):
    monkeypatch.setitem(sys.modules, "src.pseudo.rounds", None)  # which imports torch
    done = stage_here(copy, "04_pseudo_label.py", *EASY, "pseudo.rounds=0")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert "pseudo.rounds=0" in done.stdout
    report = json.loads((copy / "runs/baseline/pseudo.json").read_text())
    assert (report["best"], [row["run"] for row in report["rounds"]]) == ("baseline", ["baseline"])


def test_pseudo_labelling_one_fold_is_refused(copy, stage_here):
    done = stage_here(copy, "04_pseudo_label.py", *EASY, "fold=0", "pseudo.rounds=1")
    assert done.returncode == 2
    assert "04 works on all folds" in done.stderr
