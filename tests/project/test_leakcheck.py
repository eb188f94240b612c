"""make leakcheck: at chance where all is honest, and each planted leak is caught."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from competitions import TASKS, prepare_competition
from conftest import forget_the_listings
from leakchecks import check, check_again, competition, copy_of, leaks

from src.artifacts import read_json, write_parquet
from src.commands import leakcheck, permuted_labels
from src.commands.leakscan import scan
from src.commands.permuted_labels import Check, checks, noise_config, shuffled
from src.commands.small_copy import copy_sample
from src.configfile import load_config
from src.decisions import fit_rule
from src.inference.oof import predict_run
from src.metrics import create_metric
from src.pseudo import rounds
from src.steps import run_of, stack_step
from src.tasks import create_task
from src.training import teachers
from src.training.launch import train_run


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """The command on the embedded competition."""
    forget_the_listings()
    return check(tmp_path_factory.mktemp("checked"), "multiclass")


@pytest.fixture(scope="module")
def noisy(checked):
    """Its competition whose images were dealt out anew, with all stages run: its config."""
    return checked.noise


@pytest.fixture
def planted(checked, tmp_path):
    """A copy of it to plant a leak in."""
    forget_the_listings()
    return copy_of(checked, tmp_path / "planted")


def test_the_command_finds_no_leak_in_the_embedded_competition(checked):
    assert (checked.done.returncode, checked.done.stderr) == (0, "")
    assert checked.done.stdout.endswith("leakcheck: no leak was found\n")
    assert leaks(checked.done) == []


def test_every_stage_lies_at_chance_where_nothing_can_be_learned(noisy):
    all_checks = checks(noisy)
    assert {check.stage for check in all_checks} == {"02", "03", "04", "05"}
    names = {check.name for check in all_checks}
    assert {"noise", "student", "noise-round1", "mean", "lightgbm"} <= names
    assert [check.line() for check in all_checks if check.leaks] == []
    assert all(0.05 < check.chance < 0.15 for check in all_checks)  # ten classes


def test_its_network_learns_the_rows_by_heart_for_only_then_would_a_leak_show(noisy):
    history = pd.read_csv(noisy.root / "runs/noise/fold0/history.csv")
    assert history["train_loss"].iloc[-1] < 0.6 * history["train_loss"].iloc[0]
    assert read_json(noisy.root / "runs/noise/fold0/score.json")["kept"] == "epoch 20"


def test_a_teacher_that_has_seen_the_folds_rows_is_caught(checked, planted, monkeypatch):
    load = teachers.load_model

    def of_the_next_fold(path: Path, device):
        other = (int(path.parent.name[-1]) + 1) % 4
        return load(path.parents[1] / f"fold{other}" / path.name, device)

    monkeypatch.setattr(teachers, "load_model", of_the_next_fold)
    lesson = planted.distill.model_copy(update={"teacher": "noise", "weight": 1.0})
    pupil = planted.model_copy(update={"name": "student", "seed": 7, "distill": lesson})
    shutil.rmtree(planted.root / "runs/student")
    train_run(run_of(pupil), (0, 1, 2, 3))
    predict_run(run_of(pupil), (0, 1, 2, 3))
    done = check_again(checked, planted)
    assert done.returncode == 1
    assert ("03", "student") in leaks(done), done.stdout


def test_pseudo_labels_of_the_ensemble_are_caught(checked, planted):
    for path in (planted.root / "runs").glob("noise-round*"):
        shutil.rmtree(path)
    (planted.root / "runs/noise/pseudo.json").unlink()
    of_all = planted.pseudo.model_copy(update={"rounds": 1, "source": "ensemble"})
    rounds.label_recursively(planted.model_copy(update={"pseudo": of_all}))
    done = check_again(checked, planted)
    assert done.returncode == 1
    assert ("04", "noise-round1") in leaks(done), done.stdout


def test_a_stacker_fitted_on_the_rows_it_is_scored_on_is_caught(checked, planted, monkeypatch):
    from sklearn.tree import DecisionTreeClassifier

    from src.ensemble import second_level
    from src.ensemble.members import find_members
    from src.ensemble.report import stack_runs

    def in_sample(fit, level):
        rows = level.oof.transpose(1, 0, 2).reshape(len(level.fold), -1)
        tree = DecisionTreeClassifier(max_depth=6, random_state=0).fit(rows, level.targets.argmax(1))
        return tree.predict_proba(rows)

    monkeypatch.setattr(second_level, "nested_oof", in_sample)
    shutil.rmtree(planted.root / "stacks")
    folders, _ = find_members(planted)
    stack_runs(stack_step(planted, folders), planted, folders)
    done = check_again(checked, planted)
    assert done.returncode == 1
    assert ("05", "lightgbm") in leaks(done), done.stdout


def test_thresholds_fitted_on_the_rows_they_decide_are_caught():
    """Twelve rare labels, predictions that know nothing: what a rule of the scored rows makes of F1."""
    task = SimpleNamespace(kind="numbers", metric=create_metric("multilabel", "f1_macro"))
    random = np.random.default_rng(0)
    names = [f"l{i}" for i in range(12)]
    truth, said = (random.random((320, 12)) < 0.08).astype(float), random.random((320, 12))
    oof = pd.DataFrame(said, columns=names).assign(fold=np.arange(320) % 4, target="")
    task.truth, task.read = lambda *_: truth, lambda *_: said
    chance, spread = shuffled(task, oof, names, np.zeros(320, int))
    flattered = task.metric(truth, fit_rule(task.metric, truth, said).apply(said))
    assert Check("05", "in sample", flattered, chance, spread, 1).leaks
    kept_apart = permuted_labels.nested_cv(task, truth, said, oof["fold"].to_numpy())
    assert not Check("05", "nested", kept_apart, chance, spread, 1).leaks


@pytest.mark.parametrize("sign", [1, -1])
def test_a_check_is_a_leak_beyond_three_standard_deviations_on_the_better_side(sign):
    def check(cv):
        return Check("03", "x", cv, 0.5, 0.1, sign)

    assert check(0.5 + sign * 0.31).leaks
    assert not check(0.5 + sign * 0.29).leaks
    assert not check(0.5 - sign * 0.9).leaks
    assert "below chance" in check(0.5 - sign * 0.9).line()
    assert check(float("nan")).leaks  # no score is no proof
    assert Check("03", "x", 0.5 + 0.1 * sign, 0.5, 0.0, sign).leaks  # chance that never varies
    assert not Check("03", "x", 0.5, 0.5, 0.0, sign).leaks


# --- dealing out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["multiclass", "segmentation"])
def test_images_change_places_and_nothing_else_does(tmp_path, task):
    config = load_config(competition(tmp_path / "whole", task))
    forget_the_listings()
    copy_sample(config, tmp_path / "plain", 100, 20)
    copy_sample(config, tmp_path / "dealt", 100, 20, deal=True)
    plain, moved = (tmp_path / name / "data/raw" for name in ("plain", "dealt"))
    for path in plain.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.read_bytes() == (moved / path.relative_to(plain)).read_bytes()
    links = [path.relative_to(plain) for path in plain.rglob("*") if path.is_symlink()]
    places = [place for place in links if "train" in place.parts[0]]
    shown = {place: (moved / place).resolve() for place in places}
    assert sorted(shown.values()) == sorted((plain / place).resolve() for place in places)
    assert np.mean([shown[place] == (plain / place).resolve() for place in places]) < 0.2
    tests = [place for place in links if "test" in place.parts[0]]
    assert tests
    assert all((plain / place).resolve() == (moved / place).resolve() for place in tests)


# --- the scan -----------------------------------------------------------------------------------------------


def test_a_scan_of_honest_runs_finds_nothing(noisy):
    result = scan(noisy)
    assert (result.leaks, result.unseen, result.models) == ([], [], 12)


def change_stamp(path: Path, **recipe) -> None:
    stamp = json.loads(path.read_text())
    stamp["recipe"] |= recipe
    path.write_text(json.dumps(stamp))


def test_rows_of_the_fold_among_those_learned_from_are_named(planted):
    path = planted.root / "runs/noise/fold2/learned.parquet"
    own = pd.read_parquet(planted.root / "runs/noise/fold2/oof.parquet")["id"].iloc[0]
    learned = pd.read_parquet(path)
    write_parquet(path, pd.concat([learned, pd.DataFrame({"id": [own], "part": ["train"]})]))
    (leak,) = scan(planted).leaks
    assert leak == f"noise fold 2: 1 of its own rows are among its train rows, such as {own}"


def test_what_a_fold_learned_from_is_written_down(noisy):
    table = pd.read_csv(noisy.root / "data/folds.csv", dtype=str)
    learned = pd.read_parquet(noisy.root / "runs/noise-round1/fold1/learned.parquet")
    rows = {part: set(ids) for part, ids in learned.groupby("part")["id"]}
    assert rows["train"] == set(table.loc[table["fold"] != "1", "id"])
    pseudo = pd.read_parquet(noisy.root / "runs/noise-round1/fold1.pseudo.parquet")
    assert rows["pseudo"] == set(pseudo["id"])


def test_a_teacher_of_another_fold_is_named(planted):
    stamps = [planted.root / f"runs/student/fold{k}/train.stamp.json" for k in (0, 1)]
    inputs = [read_json(stamp)["recipe"]["inputs"] for stamp in stamps]
    change_stamp(stamps[0], inputs=inputs[0] | {"teacher": inputs[1]["teacher"]})
    (leak,) = scan(planted).leaks
    assert leak.startswith("student fold 0 was taught by noise's model of fold 1")


def test_labels_of_another_fold_are_named(planted):
    folder = planted.root / "runs/noise-round1"
    change_stamp(
        folder / "select0.stamp.json",
        predictions=read_json(folder / "select3.stamp.json")["recipe"]["predictions"],
    )
    (leak,) = scan(planted).leaks
    assert leak.startswith("noise-round1 fold 0 learned from labels of noise's fold 3")


def test_a_table_that_is_not_what_the_folds_own_models_said_is_named(planted):
    path = planted.root / "runs/student/oof.parquet"
    table = pd.read_parquet(path)
    table.iloc[0, -1] += 0.1
    write_parquet(path, table)
    (leak,) = scan(planted).leaks
    assert leak.startswith("student: oof.parquet does not hold what fold ")


def test_a_stack_that_was_nested_by_other_folds_is_named(planted):
    path = planted.root / "stacks/noise/oof.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "fold"] = (table.loc[0, "fold"] + 1) % 4
    write_parquet(path, table)
    (leak,) = scan(planted).leaks
    assert leak.startswith(
        f"stack noise: 1 rows stand in other folds than in data/folds.csv, such as {table['id'][0]}"
    )


def test_a_stack_of_tables_that_have_changed_since_cannot_be_seen(planted):
    stamp = planted.root / "stacks/noise/stack.stamp.json"
    members = read_json(stamp)["recipe"]["members"]
    change_stamp(stamp, members=members | {"noise": ["other", "other"]})
    assert scan(planted).unseen == ["stack noise: its member noise has been predicted again since"]
    change_stamp(stamp, folds="other")
    assert scan(planted).unseen == ["stack noise was made on other folds than data/folds.csv holds now"]


def test_what_cannot_be_seen_is_said_and_is_no_leak(planted):
    (planted.root / "runs/noise/fold0/learned.parquet").unlink()
    result = scan(planted)
    assert result.leaks == []
    assert result.unseen == ["noise fold 0 left no learned.parquet: it was trained before there were any"]


# --- the command --------------------------------------------------------------------------------------------


def test_a_leak_ends_the_command_with_status_1_and_nothing_of_the_competitors_is_touched(
    prepared, command, snapshot, monkeypatch
):
    leak = Check("03", "noise", 0.9, 0.5, 0.05, 1)
    monkeypatch.setattr(permuted_labels, "run_stages", lambda config: None)
    monkeypatch.setattr(permuted_labels, "checks", lambda config: [leak])
    before = snapshot(prepared)
    done = command(leakcheck, prepared)
    assert done.returncode == 1
    assert leak.line() in done.stdout
    assert done.stderr == "error: leakcheck: 1 leak(s), see above; do not believe these CVs\n"
    assert snapshot(prepared) == before
    monkeypatch.setattr(permuted_labels, "checks", lambda config: [])
    assert command(leakcheck, prepared).returncode == 0


def test_a_prepared_competition_of_another_task_is_made_quiet(tmp_path):
    for task in TASKS:
        config = load_config(prepare_competition(tmp_path / task, task))
        assert create_task(noise_config(config, tmp_path)).name == task
        views = noise_config(config, tmp_path).inference.tta
        assert len(views) == 1 + (task == "regression")  # stage 04 asks two of it
