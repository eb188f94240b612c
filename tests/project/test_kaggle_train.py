"""`make train-kernel`: stages 01 to 03 run elsewhere, session after session, and come home whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from kaggle_server import Competition, plain

from src.config import Config, UserError
from src.configfile import load_config
from src.kaggle.training import job_of, stage_code
from src.submission.manifest import write_manifest

pytest_plugins = ["kaggle_server.desk"]

# Stands in for stage 02: a run that needs two sessions.
SLOW_STAGE = """\
import pathlib, sys, time
fold = pathlib.Path("runs/baseline/fold0")
fold.mkdir(parents=True, exist_ok=True)
if not (fold / "checkpoint.pt").exists():
    (fold / "checkpoint.pt").write_text("half way")
    time.sleep(60)
    sys.exit("never stopped")
(fold / "model.txt").write_text((fold / "checkpoint.pt").read_text() + ", and the rest")
"""


@pytest.fixture
def trainer(desk, prepared):
    """A desk whose project is the digits after stage 01, with the code that a project has."""
    config = prepared / "configs/baseline.yaml"
    text = config.read_text().replace("title: Digits", "title: Digits\n  kaggle_username: quickfox")
    config.write_text(text + "kaggle:\n  machine_shape: cpu\n")
    shutil.copytree(ROOT / "src", prepared / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "kernel", prepared / "kernel")
    for stage in ROOT.glob("0?_*.py"):
        shutil.copy(stage, prepared / stage.name)
    desk.root = prepared
    desk.store.competitions["digits"] = Competition("digits", prepared / "data/raw", {})
    return desk


def stubs(project: Path, second: str) -> None:
    """Stages that take no time."""
    for name, text in {
        "01_folds.py": "",
        "02_train.py": second,
        "03_oof_predict.py": "print('predicted')",
    }.items():
        (project / name).write_text(text)


def test_the_real_stages_train_on_kaggle_and_the_run_comes_home_up_to_date(trainer, stage):
    said = trainer.run("train_kernel")
    assert said.code == 0, said.err + said.out
    kernel = trainer.store.kernels["quickfox/digits-train-baseline"]
    assert kernel.saved["enableInternet"] is True
    assert kernel.saved["competitionDataSources"] == ["digits"]
    home = trainer.root / "runs/baseline"
    oof = pd.read_parquet(home / "oof.parquet")
    assert oof["id"].tolist() == pd.read_csv(trainer.root / "data/raw/train.csv", dtype=str)["id"].tolist()
    assert trainer.receipt("train-baseline")["sessions"][0]["state"] == "finished"
    trainer.calls()
    # What was trained there is what would be trained here: nothing is left to do.
    done = stage(trainer.root, "03_oof_predict.py")
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout
    assert "up to date, trained on Kaggle" in trainer.run("train_kernel").out
    assert trainer.calls() == []


def test_a_run_beyond_one_session_goes_on_in_the_next_and_is_never_written_over_another(trainer):
    stubs(trainer.root, SLOW_STAGE)
    said = trainer.run("train_kernel", "kaggle.train_hours=0.002")
    assert said.code == 0, said.err
    assert "not finished after session 1; `make train-kernel` goes on" in said.out
    assert not (trainer.root / "runs/baseline").exists()
    (first,) = trainer.receipt("train-baseline")["sessions"]
    assert first["state"] == "stopped"
    trainer.calls()

    mine = trainer.root / "runs/baseline/mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for force in ([], ["--force"]):  # said before a session is spent on it
        assert "runs/baseline: a run of this name is here" in trainer.run("train_kernel", *force).sentence
        assert trainer.calls() == []
    shutil.move(mine.parent, trainer.root / "elsewhere")

    assert trainer.run("train_kernel", "kaggle.train_hours=1").code == 0
    second = trainer.store.kernels["quickfox/digits-train-baseline-2"]
    assert second.saved["kernelDataSources"] == [first["ref"]] == ["quickfox/digits-train-baseline"]
    assert "CreateDatasetVersion" not in trainer.calls()  # the code is there already
    shutil.move(trainer.root / "runs/baseline", trainer.root / "second")
    shutil.move(trainer.root / "elsewhere", mine.parent)  # in the way again, by the time it is finished
    assert "a run of this name is here" in trainer.run("train_kernel").sentence
    assert mine.read_text() == "mine"
    shutil.rmtree(mine.parent)
    assert trainer.run("train_kernel").code == 0
    assert trainer.calls() == ["ListKernelSessionOutput"]  # it is only brought home
    assert (trainer.root / "runs/baseline/fold0/model.txt").read_text() == "half way, and the rest"
    report = json.loads((second.runs[0].working / "training.json").read_text())
    assert report["done"] == ["01_folds.py", "02_train.py", "03_oof_predict.py"]


def test_what_cannot_train_is_refused_before_anything_is_sent(trainer):
    (trainer.root / "data/folds.csv").unlink()
    assert "run `make folds EXP=baseline` first" in trainer.run("train_kernel").sentence
    assert trainer.calls() == []


def test_the_models_of_every_teacher_travel_with_the_code_and_one_that_is_not_trained_is_named(trainer):
    text = (trainer.root / "configs/baseline.yaml").read_text()
    trainer.write("configs/student.yaml", text + "distill: {teacher: [big, wide]}\n")
    config = load_config(trainer.root / "configs/student.yaml")
    for name in ("big", "wide"):
        with pytest.raises(UserError, match=f"make train EXP={name}"):
            stage_code(config)
        for fold in config.selected_folds:
            trainer.write(f"runs/{name}/fold{fold}/model.safetensors", f"{name} {fold}")
            stamp = {"fingerprint": "0" * 16, "outputs": {}, "recipe": {}}
            trainer.write(f"runs/{name}/fold{fold}/train.stamp.json", json.dumps(stamp))
    stage_code(config)
    travels = trainer.root / "kaggle/code/runs"
    assert {path.parent.name for path in travels.glob("*/fold0")} == {"big", "wide"}
    assert (travels / "wide/fold1/model.safetensors").read_text() == "wide 1"
    assert len(list(travels.rglob("*.json"))) == 2 * len(config.selected_folds)


# --- the script alone ---


def test_a_backbone_that_kaggles_image_lacks_is_not_trained_there():
    config = Config(competition={"slug": "digits"}, model={"backbone": "lcnetv2_small"})
    with pytest.raises(UserError, match="lcnetv2_small"):
        job_of(config)


def test_a_session_knows_that_the_test_set_may_be_empty():
    config = Config(competition={"slug": "digits"}, kaggle={"code_competition": True, "hours": 5})
    assert job_of(config)["config"]["kaggle"] == {"code_competition": True}


@pytest.fixture
def kernel(tmp_path):
    """`kernel(stages, **job)` runs kernel/train.py on stages of this text; gives exit status and log."""

    def run(stages: dict[str, str], damage: str | None = None, **job) -> tuple[int, str]:
        code, working = tmp_path / "input/datasets/quickfox/digits-code", tmp_path / "working"
        for name, text in {"data/folds.csv": "id,fold\n", "src/empty.py": "", **stages}.items():
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            (code / name).write_text(text)
        content = write_manifest(code)["bundle_hash"]
        if damage:
            (code / damage).write_text("not what was sent")
        (tmp_path / "input/competitions/digits").mkdir(parents=True)
        working.mkdir()
        whole = {
            "name": "baseline",
            "competition": "digits",
            "config": {},
            "overrides": [],
            "gpus": 0,
            "hours": 1,
        }
        whole |= {"content": content, **job}
        script = (ROOT / "kernel/train.py").read_text().replace("\nJOB = {}", f"\nJOB = {whole!r}")
        (tmp_path / "script.py").write_text(script)
        return plain(tmp_path / "script.py", tmp_path / "input", working, {})

    return run


STAGES = {"01_folds.py": "", "02_train.py": "print('trained')", "03_oof_predict.py": "print('predicted')"}


def test_the_script_runs_the_stages_in_their_order(kernel, tmp_path):
    code, log = kernel(STAGES)
    assert code == 0, log
    assert log.index("trained") < log.index("predicted") < log.index("finished")
    assert json.loads((tmp_path / "working/training.json").read_text())["finished"] is True


FAULTS = {
    "a failing stage": (
        {"stages": {**STAGES, "02_train.py": "raise SystemExit('out of memory')"}},
        ["out of memory", "02_train.py failed with exit status 1"],
    ),
    "an error of the program itself": (
        {
            "stages": {
                **STAGES,
                "src/config.py": "class UserError(Exception):\n    pass\n",
                "src/entry.py": (ROOT / "src/entry.py").read_text(encoding="utf-8"),
                "02_train.py": "from src.entry import plain_errors\nwith plain_errors():\n    1 / 0\n",
            }
        },
        ["Traceback (most recent call last)", "ZeroDivisionError", "02_train.py failed with exit status 1"],
    ),
    "other folds": (
        {"stages": {**STAGES, "01_folds.py": "open('data/folds.csv', 'a').write('x')"}},
        ["stage 01 decided other folds here than at home"],
    ),
    "no GPU": ({"stages": STAGES, "gpus": 99}, ["99 were asked for: see kaggle.machine_shape"]),
    "code that is not there": (
        {"stages": STAGES, "content": "0" * 64},
        ["no attached dataset holds the code"],
    ),
    "damaged code": (
        {"stages": STAGES, "damage": "src/empty.py"},
        ["src/empty.py: is not the file that was sent"],
    ),
    "another competition": (
        {"stages": STAGES, "competition": "other"},
        ["competition other are not attached"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_script_ends_as_failed_and_says_why(kernel, tmp_path, name):
    arguments, words = FAULTS[name]
    code, log = kernel(**arguments)
    assert code == 1
    for said in words:
        assert said in log
    assert "predicted" not in log
    assert not (tmp_path / "working/training.json").exists()
