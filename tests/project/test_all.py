"""All stages in one process: a night's queue, in which one that fails keeps no other from running. That the
results are those of six processes is tested in test_stages.py."""

from __future__ import annotations

import json
import subprocess

import processes
import pytest
from conftest import ROOT, call_all, write_config

SHORT = ("pseudo.rounds=1", "pseudo.threshold=0.104", "train.ema.enabled=false")


def experiment(project, name: str, text: str) -> None:
    write_config(project, name, f"base: baseline\n{text}")


def stages_of(done) -> list[str]:
    return [line.removeprefix("--- ") for line in done.stdout.splitlines() if line.startswith("--- ")]


def test_each_experiment_has_its_run_and_the_first_the_rest(prepared):
    experiment(prepared, "other", "seed: 7\n")
    done = call_all(prepared, "baseline", "other", *SHORT)
    assert done.returncode == 0, done.stderr
    assert stages_of(done) == [
        *("01_folds.py baseline", "02_train.py baseline", "03_oof_predict.py baseline"),
        *("01_folds.py other", "02_train.py other", "03_oof_predict.py other"),
        *("04_pseudo_label.py baseline", "05_stack.py baseline", "06_submit.py baseline"),
    ]
    members = json.loads((prepared / "stacks/stack/metrics.json").read_text())["members"]
    assert {"baseline", "other"} <= set(members)
    assert (prepared / "submissions/stack.csv").exists()
    assert not (prepared / "runs/other/pseudo.json").exists()


@pytest.mark.parametrize(
    ("broken", "status", "said"),
    [
        ("distill:\n  teacher: nobody\n", 2, "nobody"),  # what a competitor can mend
        (
            "train:\n  batch_size: 16\n",
            1,
            "RuntimeError: out of memory",
        ),  # a bug of ours, or the machine's end
    ],
)
def test_one_that_fails_keeps_no_other_from_running(prepared, monkeypatch, broken, status, said):
    from src.training import launch

    train = launch.train_run

    def failing(run, folds):
        if run.name == "broken" and status == 1:
            raise RuntimeError("out of memory")
        train(run, folds)

    monkeypatch.setattr(launch, "train_run", failing)
    experiment(prepared, "broken", broken)
    experiment(prepared, "last", "seed: 7\n")
    done = call_all(prepared, "baseline", "broken", "last", *SHORT)
    assert done.returncode == status
    assert said in done.stderr
    assert done.stderr.endswith("error: not finished: broken; see above\n")
    assert "03_oof_predict.py broken" not in stages_of(done)
    assert all((prepared / f"runs/{name}/metrics.json").exists() for name in ("baseline", "last"))
    assert (prepared / "submissions/stack.csv").exists()


def test_a_mistake_in_any_config_is_said_before_anything_starts(prepared, snapshot):
    experiment(prepared, "typo", "train:\n  epochss: 3\n")
    before = snapshot(prepared)
    done = call_all(prepared, "baseline", "typo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "epochss" in done.stderr
    assert snapshot(prepared) == before


def test_two_experiments_of_one_name_are_refused(prepared):
    experiment(prepared, "twin", "name: baseline\n")
    done = call_all(prepared, "baseline", "twin")
    assert done.returncode == 2
    assert "configs/baseline.yaml, configs/twin.yaml have the same name" in done.stderr


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return processes.run(["make", "-n", "-f", ROOT / "Makefile", "PYTHON=python", "EXP=a b", *words])


def test_make_hands_all_experiments_to_all_and_says_where_only_one_can_go():
    done = make("all", "ARGS=seed=7")
    expected = '"python" -m src.commands.all --config configs/a.yaml --config configs/b.yaml seed=7'
    assert done.stdout.strip() == expected
    for words in (("train",), ("train", "GPUS=2"), ("oof",), ("ablate",)):
        done = make(*words)
        assert done.returncode == 2
        assert 'EXP="a b": one experiment goes here; `make all` takes several' in done.stderr
