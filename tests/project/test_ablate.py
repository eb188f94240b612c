"""`make ablate`: honest pairs, a plan that fits the time, runs that are shared, resumed and left out of
stacks, on all six tasks."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import processes
import pytest
import torch
from competitions import TASKS, prepare_competition
from conftest import ROOT, call_stage
from scipy import stats
from test_config import HEAVY

from src.commands import ablate, budget, trials
from src.commands.ablate import read_changes
from src.commands.budget import Cost, TimeBudget, all_pairs, measure_cost, plan_pairs, said_pairs
from src.commands.compare import compare_change, paired
from src.commands.trials import BASE, Change, Pair, Trials, pairs_in_batches
from src.config import Config, UserError
from src.configfile import load_config
from src.decisions import nested_score
from src.ensemble.members import find_members
from src.tasks import create_task
from src.tasks.base import targets_in

EMA, TTA = "train.ema.enabled=false", "inference.tta=[identity,left]"
TWO = 0.15  # minutes for two pairs of one trick and the base, 2 s each, as `run` has them cost


def trials_of(project: Path, *arguments: str) -> Trials:
    return Trials(str(project / "configs" / "baseline.yaml"), list(arguments), "ablate")


def run(
    project: Path,
    *tricks: str,
    minutes: float = 60,
    arguments: tuple[str, ...] = (),
    cost: Cost | None = None,
    spent: bool = False,
) -> Path:
    """The ablation, with the cost of a training given instead of measured, and a clock that has no end, or
    one that has run out; gives its folder."""
    given, end = cost or Cost(epoch=1.0, rest=1.0, width=1), -math.inf if spent else math.inf
    changes = [Change.read(trick) for trick in tricks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "measure_cost", lambda trials, folder: given)
        patch.setattr(TimeBudget, "__init__", lambda clock, minutes: vars(clock).update(end=end, last=0.0))
        ablate.ablate(trials_of(project, *arguments), changes, minutes, "small")
    return project / "ablations" / "small"


def files(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


# --- the plan -----------------------------------------------------------------------------------------------

FIVE = all_pairs((0, 1, 2, 3, 4), seed=42)


@pytest.mark.parametrize(
    ("minutes", "epochs", "pairs"),
    [
        (1000, 15, 15),  # all five folds with three seeds
        (45, 15, 8),  # 5 trainings a pair of 1 + 15 * 4 = 61 s: 305 s a pair
        (20.4, 15, 4),
        (20.3, 14, 4),  # a second too short for four pairs at full length
        (8, 5, 4),  # 5 * (1 + 5 * 4) * 4 = 420 s
        (6, 4, 4),
        (5, 4, 3),  # a quarter of the epochs is the least: fewer pairs now
        (3, 4, 2),
    ],
)
def test_a_plan_keeps_four_pairs_first_then_the_epochs_then_takes_what_fits(minutes, epochs, pairs):
    cost = Cost(epoch=4.0, rest=1.0, width=1)
    plan = plan_pairs(cost, 4, 15, FIVE, minutes)
    assert (plan.epochs, len(plan.pairs)) == (epochs, pairs)
    assert 5 * pairs * cost.of(epochs) <= 60 * minutes
    assert list(plan.pairs) == FIVE[:pairs]
    assert budget.ExperimentPlan.from_json(json.loads(json.dumps(plan.as_json()))) == plan


def test_trainings_side_by_side_share_their_time():
    plan = plan_pairs(Cost(epoch=4.0, rest=1.0, width=2), 4, 15, FIVE, 45)
    assert (plan.epochs, len(plan.pairs)) == (15, 14)  # eight rounds: 2 2 1, 2 2 1, 2 2 of the folds
    assert [len(part) for part in pairs_in_batches(FIVE, 2)] == [2, 2, 1] * 3
    assert [pair.seed for part in pairs_in_batches(FIVE, 2) for pair in part] == [42] * 5 + [43] * 5 + [
        44
    ] * 5


def test_too_little_time_is_answered_with_how_much_it_takes():
    cost = Cost(epoch=4.0, rest=1.0, width=1)
    with pytest.raises(
        UserError, match=r"MINUTES=1 is too short: 2 pairs of 5 trainings of 4 epochs"
    ) as caught:
        plan_pairs(cost, 4, 15, FIVE, 1)
    assert "give MINUTES=3, or try fewer" in str(caught.value)
    assert len(plan_pairs(cost, 4, 15, FIVE, 3).pairs) == 2


def test_a_plan_is_said_before_it_runs(prepared, capsys):
    run(prepared, EMA, minutes=TWO)
    said = capsys.readouterr().out.splitlines()
    plan = "ablate baseline: 1 to try beside the base, 2 pairs (folds 0 1, seed 42), 1 of 1 epochs: "
    assert said[0] == plan + "4 trainings, about 0.133 of 0.15 minutes"
    assert said_pairs([Pair(3, 7)]) == "1 pair (fold 3, seed 7)"


def test_a_training_is_timed_once_on_as_many_folds_as_go_side_by_side(prepared):
    found = measure_cost(
        trials_of(prepared, "train.epochs=7", "train.ema.decay=0.5"), prepared / "ablations" / "x"
    )
    assert found.width == 1
    assert found.epoch > 0
    assert found.rest > 0
    (folder,) = (prepared / "runs").iterdir()
    assert len(pd.read_csv(folder / "fold0" / "history.csv")) == 2  # the first pays for what is set up once
    before = files(prepared)
    again = measure_cost(
        trials_of(prepared, "train.epochs=7", "train.ema.decay=0.5"), prepared / "ablations" / "x"
    )
    assert (again, files(prepared)) == (found, before)


# --- what is tried ------------------------------------------------------------------------------------------


def test_a_space_parts_tricks_and_a_comma_the_keys_of_one():
    text = "train.ema.enabled=false train.optimizer=adamw,train.lr=1e-3 inference.tta=[identity, left],x.y=1"
    assert [change.overrides for change in read_changes(text, Path("none"))] == [
        ("train.ema.enabled=false",),
        ("train.optimizer=adamw", "train.lr=1e-3"),
        ("inference.tta=[identity, left]", "x.y=1"),
    ]
    assert read_changes("a.b=1 a.b=1", Path("none")) == [Change(("a.b=1",))]


def test_without_tricks_those_of_the_list_are_tried(tmp_path):
    path = tmp_path / "ablate.yaml"
    path.write_text("try:\n  - train.lr=1e-3 train.epochs=3\n  - augment.hflip=0\n")
    found = read_changes(" ", path)
    assert found == [Change(("train.lr=1e-3", "train.epochs=3")), Change(("augment.hflip=0",))]


def test_every_trick_of_the_list_that_comes_along_is_a_good_config(tmp_path):
    changes = read_changes("", ROOT / "configs" / "ablate.yaml")
    path = tmp_path / "configs" / "experiment.yaml"
    path.parent.mkdir()
    path.write_text("")
    Trials(str(path), [], "ablate").check(changes)
    assert len(changes) >= 5


def test_what_is_told_in_epochs_goes_along_with_a_share_of_them(project):
    told = (
        "train.epochs=20",
        "train.hold_epochs=4",
        "train.cycles=4",
        "mixing.mixup=1",
        "mixing.off_epochs=8",
    )
    trials = replace(trials_of(project, *told), share=1 / 20)
    config = trials.configured(BASE, 0)
    assert (config.train.epochs, config.train.cycles, config.mixing.off_epochs) == (1, 1, 0)
    half = replace(trials, share=0.5).configured(BASE, 0)
    assert (half.train.epochs, half.train.hold_epochs, half.mixing.off_epochs) == (10, 2, 4)


@pytest.mark.parametrize(
    "text",
    ["", "try:\n", "- a=1\n", "try: a=1\n", "try: [1, 2]\n", "try: [a: 1]\n", "{", "try:\n  - hello\n"],
)
def test_a_list_that_is_none_is_refused_in_a_sentence(tmp_path, text):
    path = tmp_path / "ablate.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"such as `- train|looks like train") as caught:
        read_changes("", path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such list"):
        read_changes("", tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        ("cv.n_folds=3", "other folds cannot be paired"),
        ("task.metric=log_loss", "another task or metric"),
        ("seed=7", "the pairs have seeds of their own"),
        (
            "data.target=x",
            "of data only image_size, cache_size, fit, max_value, squeeze, preprocess can be tried",
        ),
        ("pseudo.rounds=3", "a trial ends with stage 03"),
        ("stack.patience=3", "a trial ends with stage 03"),
        ("runtime.jobs=3", "it changes no score"),
        ("fold=1", "several folds"),
        ("name=x", "named after what it changes"),
    ],
)
def test_what_is_no_trick_is_refused_with_the_reason(trick, reason):
    with pytest.raises(UserError, match=f"{trick.partition('=')[0]} is no trick to try: .*{reason}"):
        Change.read(trick)
    Change.read("data.image_size=32")


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        ("train.ema.enabled=true", "baseline has that already"),
        ("train.epoch=3", "did you mean `train.epochs`"),
        ("train.epochs=0", "greater than or equal to 1"),
        ("inference.tta=[sideways]", "no view 'sideways'"),
        ("train.lr=1e-9", "train.min_lr=1e-06 lies above"),
    ],
)
def test_a_trick_that_changes_nothing_or_cannot_be_is_refused_before_anything_runs(prepared, trick, reason):
    with pytest.raises(UserError, match=reason) as caught:
        trials_of(prepared).check([Change.read(trick)])
    assert "\n" not in str(caught.value)


# --- the comparison -----------------------------------------------------------------------------------------


def scores(values: list[float]) -> dict[Pair, float]:
    return {Pair(fold, 0): value for fold, value in enumerate(values)}


@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_and_its_error_are_those_of_a_paired_t_test(sign):
    rng = np.random.default_rng(0)
    base, own = rng.normal(0.8, 0.1, 6), rng.normal(0.85, 0.1, 6)
    row = compare_change(Change(("a=1",)), scores(own), scores(base), sign)
    expected = stats.ttest_rel(own, base)
    assert row.difference / row.error == pytest.approx(sign * expected.statistic)
    assert row.difference == pytest.approx(sign * (own - base).mean())
    assert (row.base, row.score, row.pairs) == (pytest.approx(base.mean()), pytest.approx(own.mean()), 6)


@pytest.mark.parametrize(
    ("differences", "sign", "verdict"),
    [
        ([0.2, 0.3, 0.2, 0.3], 1, "helps"),
        ([0.2, 0.3, 0.2, 0.3], -1, "hurts"),
        ([-0.2, -0.3, -0.2], 1, "hurts"),
        ([0.3, -0.3, 0.2], 1, "cannot tell"),
        ([0.1, 0.2, 0.3], 1, "cannot tell"),  # 3.5 standard errors, of the 4.3 that three pairs need
        ([0.14, 0.2, 0.26], 1, "helps"),
        ([0.0, 0.0, 0.0], 1, "cannot tell"),
        ([0.1, 0.1, 0.1], 1, "helps"),
        ([0.2, 0.2], 1, "cannot tell"),  # two pairs agree by chance too often
        ([0.2, 0.2, math.nan], 1, "cannot tell"),
        ([], 1, "cannot tell"),
    ],
)
def test_a_verdict_needs_a_sure_difference_and_three_pairs(differences, sign, verdict):
    base = scores([0.5] * len(differences))
    own = {pair: 0.5 + value for pair, value in zip(base, differences, strict=True)}
    row = compare_change(Change(("a=1",)), own, base, sign)
    assert row.verdict == verdict
    assert row.pairs == np.isfinite(differences).sum()


def test_only_pairs_that_both_have_are_compared():
    own, base = scores([0.5, 0.6, 0.9]), {Pair(1, 0): 0.5, Pair(2, 0): 0.5, Pair(2, 1): 0.1}
    assert paired(own, base, -1) == {Pair(1, 0): pytest.approx(-0.1), Pair(2, 0): pytest.approx(-0.4)}


@pytest.mark.parametrize("pairs", [3, 6])
def test_one_in_twenty_tricks_that_do_nothing_seems_to_do_something(pairs):
    draws, base = np.random.default_rng(0).normal(size=(2000, pairs)), scores([0.0] * pairs)
    said = [compare_change(Change(("a=1",)), scores(list(own)), base, 1).verdict for own in draws]
    assert np.mean([verdict != "cannot tell" for verdict in said]) == pytest.approx(0.05, abs=0.015)


# --- a whole ablation ---------------------------------------------------------------------------------------


def test_a_table_holds_the_paired_differences_of_the_out_of_fold_scores(prepared):
    folder = run(prepared, EMA, "train.lr=1e-6", arguments=("train.min_lr=0",), minutes=0.41)  # four pairs
    table = pd.read_csv(folder / "table.csv").set_index("change")
    pairs = pd.read_csv(folder / "pairs.csv")
    trial = trials_of(prepared, "train.min_lr=0")
    train = pd.read_csv(prepared / "data/raw/train.csv", dtype=str).set_index("id")["label"]
    folds = pd.read_csv(prepared / "data/folds.csv", dtype=str).set_index("id")["fold"]
    for name in (EMA, "train.lr=1e-6"):
        differences = []
        for seed in (42, 43):
            for fold in (0, 1):
                seen = []
                for change in (BASE, Change((name,))):
                    path = trial.run(change, seed).fold_folder(fold) / "oof.parquet"
                    oof = pd.read_parquet(path).set_index("id")
                    assert set(oof.index) == set(folds.index[folds == str(fold)])
                    best = oof[[str(c) for c in range(10)]].idxmax(axis=1)
                    seen.append(float((best == train.loc[oof.index]).mean()))
                row = pairs.query("change == @name and fold == @fold and seed == @seed").iloc[0]
                assert [row["base"], row["score"]] == pytest.approx(seen)
                differences.append(seen[1] - seen[0])
        row = table.loc[name]
        assert (row["pairs"], row["difference"]) == (4, pytest.approx(np.mean(differences)))
        assert row["standard_error"] == pytest.approx(stats.sem(differences))
    assert table["difference"].is_monotonic_decreasing
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "report.txt").read_text()
    assert "accuracy, 4 pairs (folds 0 1, seeds 42 43)" in text
    assert "Of 2 tricks that do nothing, 0.1 would seem to do something." in text


def test_both_of_a_pair_have_the_same_folds_and_the_same_seed(prepared):
    trial = trials_of(prepared)
    for seed in (42, 43):
        base, own = (trial.run(change, seed) for change in (BASE, Change((EMA,))))
        assert base.config.seed == own.config.seed == seed
        assert base.config.cv == own.config.cv
        settings = [one.config.settings() for one in (base, own)]
        assert settings[0]["train"].pop("ema") != settings[1]["train"].pop("ema")
        names = [one.pop("name") for one in settings]
        assert settings[0] == settings[1]
        assert all(name.startswith("baseline-ablate-") and len(name) == 24 for name in names)
    assert len({trial.run(change, seed).name for change in (BASE, Change((EMA,))) for seed in (1, 2)}) == 4


def test_a_trick_of_inference_takes_the_model_over_and_so_does_the_base_from_its_experiment(prepared):
    assert call_stage(prepared, "02_train.py").returncode == 0
    calls = []

    def counted(run, folds):
        from src.steps import train_step

        calls.extend((run.name, fold) for fold in folds if not train_step(run, fold).fresh())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.training.launch.train_run", counted)
        run(prepared, TTA, minutes=TWO)
    assert calls == []
    trial = trials_of(prepared)
    for fold in (0, 1):
        models = [
            (folder / f"fold{fold}" / "model.safetensors").read_bytes()
            for folder in (
                prepared / "runs/baseline",
                *(trial.run(c, 42).folder for c in (BASE, Change((TTA,)))),
            )
        ]
        assert models[0] == models[1] == models[2]
    said = [pd.read_parquet(trial.run(c, 42).folder / "fold0/oof.parquet") for c in (BASE, Change((TTA,)))]
    assert not said[0].equals(said[1])


def test_what_is_up_to_date_is_said_again_and_nothing_is_written(prepared, capsys, snapshot):
    run(prepared, EMA, TTA, minutes=0.21)
    first, before = capsys.readouterr().out, snapshot(prepared)
    run(prepared, EMA, TTA, minutes=0.21)
    again = capsys.readouterr().out
    assert again.startswith("ablate baseline: up to date\n")
    assert first.endswith(again.partition("\n")[2])
    assert snapshot(prepared) == before
    run(prepared, EMA, TTA, minutes=0.31)  # more time: more pairs, and what is there is used
    assert "up to date\nablation" not in capsys.readouterr().out


def test_an_ablation_that_ran_out_of_time_goes_on_to_the_same_table(prepared, capsys, tmp_path):
    for pairs in (1, 2, 3):
        folder = run(prepared, EMA, minutes=0.21, spent=True)
        said = capsys.readouterr().out
        goes_on = f"the minutes are spent after {pairs} of 3 pairs; the same command goes on"
        assert (goes_on in said) == (pairs < 3)
        assert pd.read_csv(folder / "table.csv")["pairs"].tolist() == [pairs]
    table = (folder / "table.csv").read_bytes()
    for path in sorted((prepared / "runs").iterdir()):
        path.rename(tmp_path / path.name)
    run(prepared, EMA, minutes=0.21)
    assert (folder / "table.csv").read_bytes() == table


def test_a_trick_that_cannot_be_trained_is_told_and_the_others_go_on(prepared, capsys):
    bad = "model.backbone=test_vit3,inference.scales=[64]"
    folder = run(prepared, bad, EMA, minutes=0.21)
    table = pd.read_csv(folder / "table.csv").set_index("change")
    assert table.loc[bad.replace(",", " "), "verdict"] == "failed"
    assert "cannot look at 64" in table.loc[bad.replace(",", " "), "note"]
    assert table.loc[EMA, "pairs"] > 0
    assert "cannot be trained: inference.scales: model.backbone=test_vit3" in capsys.readouterr().out


def test_another_image_size_is_packed_and_changes_no_fold(prepared):
    before = (prepared / "data/folds.csv").read_bytes()
    folder = run(prepared, "data.image_size=24", minutes=TWO)
    assert pd.read_csv(folder / "table.csv")["pairs"].tolist() == [2]
    assert (prepared / "data/cache/24px-stretch/images.npy").exists()
    assert (prepared / "data/folds.csv").read_bytes() == before


def test_shorter_trainings_keep_their_share_whatever_epochs_a_trick_asks_for(prepared):
    trial = trials_of(prepared, "train.epochs=8")
    trial.share = 0.5
    epochs = [trial.configured(Change(words), 42).train.epochs for words in ((), ("train.epochs=20",))]
    assert epochs == [4, 10]


def test_trials_are_left_out_of_stacks_unless_they_are_named(prepared):
    assert call_stage(prepared, "02_train.py").returncode == 0
    assert call_stage(prepared, "03_oof_predict.py").returncode == 0
    run(prepared, EMA, minutes=TWO)  # both folds of one seed, all epochs: a whole run
    name = trials_of(prepared).run(Change((EMA,)), 42).name

    def members(*patterns: str) -> tuple[list[str], list[str]]:
        config = load_config(prepared / "configs/baseline.yaml", [f"stack.members=[{','.join(patterns)}]"])
        folders, left_out = find_members(config)
        return [folder.name for folder in folders], left_out

    assert members("'*'") == (["baseline"], [])
    assert members("baseline", name) == (["baseline", name], [])
    with pytest.raises(UserError, match="matches no run"):
        members("'baseline-*'")


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_a_fold_is_decided_by_the_other_folds_of_the_same_run(tmp_path, metric):
    project = prepare_competition(tmp_path, "binary").parents[1]
    run(project, TTA, minutes=TWO, arguments=(f"task.metric={metric}",))
    trial = trials_of(project, f"task.metric={metric}")
    oof = pd.concat(
        [pd.read_parquet(trial.run(BASE, 42).fold_folder(k) / "oof.parquet") for k in (0, 1)]
    ).reset_index(drop=True)
    truth, said, fold = (oof["target"] == "yes").to_numpy(float), oof["yes"].to_numpy(float), oof["fold"]
    task = create_task(trial.config)
    expected = nested_score(task.metric, truth, said, fold.to_numpy()).folds
    both = trial.scores(BASE, [Pair(0, 42), Pair(1, 42)])
    assert list(both.values()) == pytest.approx(expected)
    alone = trial.scores(BASE, [Pair(1, 42)])  # no other fold: the plain rule
    mine = fold == 1
    assert alone[Pair(1, 42)] == pytest.approx(task.metric(truth[mine], said[mine] >= 0.5))
    assert (
        "decided by a rule fitted on the other folds" in (project / "ablations/small/report.txt").read_text()
    )


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_compared_by_its_own_metric(tmp_path, task):
    project = prepare_competition(tmp_path, task).parents[1]
    folder = run(project, EMA, minutes=TWO)
    (row,) = pd.read_csv(folder / "table.csv").to_dict("records")
    trial, differences = trials_of(project), []
    own = create_task(trial.config)
    outputs = json.loads((project / "data/dataset.json").read_text())["outputs"]
    seen = []
    for change in (BASE, Change((EMA,))):
        tables = [pd.read_parquet(trial.run(change, 42).fold_folder(k) / "oof.parquet") for k in (0, 1)]
        oof = pd.concat(tables).reset_index(drop=True)
        truth, said = own.truth(targets_in(oof), outputs), own.read(oof, outputs)
        seen.append(nested_score(own.metric, truth, said, oof["fold"].to_numpy()).folds)
    differences = own.metric.sign * (np.array(seen[1]) - np.array(seen[0]))
    assert (row["pairs"], row["difference"]) == (2, pytest.approx(differences.mean()))
    assert row["verdict"] == "cannot tell"
    assert f"{own.metric.name}, 2 pairs" in (folder / "report.txt").read_text()


# --- the command --------------------------------------------------------------------------------------------

SPY = """
import runpy, sys
sys.path.insert(0, {root!r})
sys.argv = sys.argv[1:]
try:
    runpy.run_module({module!r}, run_name="__main__")
    code = 0
except SystemExit as stop:
    code = stop.code or 0
print("HEAVY", [name for name in {heavy!r} if name in sys.modules])
sys.exit(code)
"""


def spy(project: Path, module: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a fresh process that says in its last line which heavy packages it has imported."""
    code = SPY.format(root=str(ROOT), module=f"src.commands.{module}", heavy=HEAVY)
    command = [sys.executable, "-c", code, module, *args]
    return processes.run(command, cwd=project, timeout=300)


@pytest.mark.parametrize("module", ["ablate", "sweep"])
def test_help_says_what_a_command_reads_and_writes_and_imports_nothing_heavy(tmp_path, module):
    done = spy(tmp_path, module, "--help")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "HEAVY []")
    assert all(word in done.stdout for word in ("Reads", "Writes", "--minutes", "key=value"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--try", "train.epoch=3"), "did you mean `train.epochs`?"),
        (("--try", "cv.n_folds=3"), "cv.n_folds is no trick to try"),
        (("--minutes", "soon"), "MINUTES=soon is no time"),
        (("--minutes", "-1"), "MINUTES=-1 is no time"),
        ((), "no such list"),
    ],
)
def test_a_mistake_is_one_sentence_and_imports_nothing_heavy(prepared, arguments, error):
    done = spy(prepared, "ablate", *arguments)
    assert (done.returncode, done.stdout) == (2, "HEAVY []\n")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert error in done.stderr


def test_an_up_to_date_ablation_imports_nothing_heavy(prepared):
    folder = run(prepared, EMA, minutes=TWO)
    done = spy(prepared, "ablate", "--try", EMA, "--minutes", str(TWO), "--name", "small")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "HEAVY []")
    assert (folder / "report.txt").read_text() in done.stdout


def test_a_mark_tells_apart_what_changes_a_score_and_nothing_else(prepared):
    trial = trials_of(prepared)

    def mark(*words: str) -> str:
        return trial.mark(load_config(trial.path, list(words)))

    same = (
        "runtime.jobs=2",
        "tracking.project=x",
        "stack.patience=3",
        "pseudo.rounds=1",
        "inference.scales=null",
    )
    assert {mark(word) for word in same} == {mark()}
    other = ("seed=1", "train.lr=1e-3", "inference.tta=[hflip]", "data.image_size=32", "model.drop_rate=0.1")
    assert len({mark(word) for word in other} | {mark()}) == 1 + len(other)
    assert trials.MARKER == "trial.json"


@pytest.mark.parametrize(
    ("target", "words", "expected"),
    [
        (
            "ablate",
            ["TRY=a.b=1 c.d=[x, y]", "MINUTES=5", "ARGS=fold=0"],
            "ablate --config configs/baseline.yaml fold=0 --minutes '5' --try 'a.b=1 c.d=[x, y]'",
        ),
        ("ablate", ["EXP=big", "NAME=few"], "ablate --config configs/big.yaml --minutes '30' --name 'few'"),
        ("sweep", ["KEYS=a.b=1,2"], "sweep --config configs/baseline.yaml --minutes '30' --keys 'a.b=1,2'"),
    ],
)
def test_make_hands_the_words_on_as_they_are(tmp_path, target, words, expected):
    command = ["make", "-n", "-f", ROOT / "Makefile", target, "PYTHON=python", *words]
    done = processes.run(command, cwd=tmp_path, check=True)
    assert done.stdout.replace('"python"', "python").split() == [
        "python",
        "-m",
        *f"src.commands.{expected}".split(),
    ]


@pytest.mark.parametrize(("count", "pooled"), [(1, False), (2, True)])
def test_one_fold_beside_several_gpus_has_a_process_of_its_own(monkeypatch, count, pooled):
    """In this process it would start CUDA, and no later fork could use it."""
    from src.training import worker_pool

    places, calls = [torch.device("cuda", i) for i in range(count)], []
    monkeypatch.setattr(worker_pool, "devices", lambda config: places)
    monkeypatch.setattr(worker_pool, "_pooled", lambda job, jobs, config, places, show: calls.append(places))
    worker_pool.run_in_parallel(lambda device, report: calls.append(device), [()], Config(), "title", 1)
    assert calls == ([places[:1]] if pooled else [places[0]])
