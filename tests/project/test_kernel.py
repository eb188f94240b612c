"""A kernel predicts what stage 03 and 06 do, from a bundle alone, whatever the mounted test set is like."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import processes
import pytest
import torch
from competitions import TASKS, prepare_competition
from conftest import ROOT, forget_the_listings
from rehearsals import run_in_process, small_cases

from src.artifacts import read_json, write_json, write_parquet
from src.config import Config, UserError
from src.configfile import load_config
from src.ensemble.apply import apply_stack
from src.inference.oof import predict_run
from src.kernel import members, rehearse
from src.kernel.bundle import build_bundle, save_half, write_notebook
from src.kernel.run import predict_competition
from src.kernel.time_guard import PLANS, Guard, InferencePlan
from src.kernel.verdict import stored_rows
from src.models.weights import load_model
from src.steps import run_of, stack_step, submission_source, submit_step
from src.submission.table import write_submission
from src.training.launch import train_run, warn_of_image

SETTINGS = (
    "submit.source=run:baseline",
    "competition.slug=digits",
    "inference.tta=[identity,hflip]",
    "train.epochs=2",
)


@pytest.fixture(scope="module", params=TASKS)
def bundled(request, tmp_path_factory):
    """A trained competition of each task with its submission and its bundle: config, bundle."""
    return prepare_bundle(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return prepare_bundle("multiclass", tmp_path_factory.mktemp("classes"))


def prepare_bundle(task: str, folder: Path):
    config = load_config(prepare_competition(folder, task, 16), [*SETTINGS])
    run = run_of(config)
    train_run(run, (0, 1))
    predict_run(run, (0, 1))
    source, name = submission_source(config)
    write_submission(submit_step(config, source, name), config, source)
    bundle = folder / "kaggle" / "bundle"
    build_bundle(config, bundle)
    whole = config.kaggle.model_copy(update={"half": False})
    build_bundle(config.model_copy(update={"kaggle": whole}), bundle.with_name("whole"))
    return config, bundle


@pytest.fixture
def mount(bundled, tmp_path) -> Path:
    """The competition as Kaggle mounts it, a copy to spoil."""
    return Path(shutil.copytree(bundled[0].root / "data/raw", tmp_path / "mount"))


def kernel(bundle: Path, mount: Path, tmp_path: Path) -> pd.DataFrame:
    predict_competition(bundle, mount, tmp_path)
    return pd.read_csv(tmp_path / "submission.csv", dtype=str, keep_default_na=False)


def alike(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """The share of rows that say the same: numbers within what half precision costs."""
    assert list(one.columns) == list(other.columns)
    key = one.columns[0]
    assert one[key].tolist() == other[key].tolist()
    same = np.ones(len(one), dtype=bool)
    for column in one.columns[1:]:
        numbers = [pd.to_numeric(table[column], errors="coerce") for table in (one, other)]
        close = np.isclose(numbers[0], numbers[1], rtol=2e-2, atol=5e-3)
        same &= close | (one[column] == other[column]).to_numpy()
    return float(same.mean())


def apart(config, found: pd.DataFrame, stored: pd.DataFrame) -> float:
    """How far two prediction tables are apart at most: numbers as a share of their spread where they have
    units, similarities as they are, masks by their mean pixel."""
    if config.task.name == "retrieval":
        assert found["candidates"].str[0].tolist() == stored["candidates"].str[0].tolist()
        return max(
            np.abs(np.sort(one) - np.sort(other)).max()
            for one, other in zip(found["similarity"], stored["similarity"], strict=True)
        )
    if config.task.name == "segmentation":
        maps = [
            [
                cv2.imdecode(np.frombuffer(cell, np.uint8), cv2.IMREAD_GRAYSCALE) / 255
                for cell in table["mask"]
            ]
            for table in (found, stored)
        ]
        return max(np.abs(one - other).mean() for one, other in zip(*maps, strict=True))
    one, other = (table.drop(columns="id").to_numpy() for table in (found, stored))
    scale = other.std(0).max() if config.task.name == "regression" else 1.0
    return np.abs(one - other).max() / scale


@pytest.mark.parametrize("half", [True, False])
def test_a_kernel_says_what_stages_03_and_06_say(bundled, mount, tmp_path, half):
    """The same ids in the same order, and predictions within what the precision costs."""
    config, bundle = bundled
    home = pd.read_csv(config.root / "submissions/baseline.csv", dtype=str, keep_default_na=False)
    predict_competition(bundle if half else bundle.with_name("whole"), mount, tmp_path, keep=True)
    submitted = pd.read_csv(tmp_path / "submission.csv", dtype=str, keep_default_na=False)
    found = pd.read_parquet(tmp_path / "predictions.parquet")
    stored = pd.read_parquet(config.root / "runs/baseline/test.parquet")
    assert found["id"].tolist() == stored["id"].tolist()
    assert apart(config, found, stored) < (1e-2 if half else 1e-5)
    least = 0.5 if config.task.name == "segmentation" else 0.9  # a pixel on the edge makes another cell
    assert alike(submitted, home) >= (least if half else 1)


def test_its_rehearsal_passes(bundled, monkeypatch):
    """The run that is scored behind walls, and what can be compared within this process."""
    config, _ = bundled
    small_cases(monkeypatch, "hidden")
    assert [case.wrong for case in rehearse.rehearse(config, ROOT)] == [None]
    small_cases(monkeypatch, "public", "replay")
    monkeypatch.setattr(rehearse, "run_kernel", run_in_process)
    assert [case.wrong for case in rehearse.rehearse(config, ROOT)] == [None, None]


def test_an_empty_test_set_and_one_of_one_row_survive(bundled, mount, tmp_path):
    config, bundle = bundled
    for rows in (0, 1):
        for name in ("sample_submission.csv", "test.csv"):
            table = pd.read_csv(mount / name, dtype=str, keep_default_na=False)
            table.iloc[:rows].to_csv(mount / name, index=False)
        assert len(kernel(bundle, mount, tmp_path)) == rows
        shutil.copytree(config.root / "data/raw", mount, dirs_exist_ok=True)


def test_a_missing_and_a_broken_image_cost_their_own_rows_alone(bundled, mount, tmp_path, capsys):
    _, bundle = bundled
    whole = kernel(bundle, mount, tmp_path)
    images = sorted((mount / "test_images").iterdir())
    images[3].unlink()
    images[5].write_bytes(b"no image")
    spoiled = kernel(bundle, mount, tmp_path)
    assert "2 of 24 images were missing or broken" in capsys.readouterr().out
    lost = {images[3].stem, images[5].stem, images[3].name, images[5].name}
    key = whole.columns[0]
    mine = whole[key].isin(lost) | whole[key].str.rpartition("_")[0].isin(lost)
    assert mine.any()
    pd.testing.assert_frame_equal(spoiled[~mine], whole[~mine])


def test_a_larger_shuffled_test_set_is_answered_in_its_own_order(classes, tmp_path, monkeypatch):
    from src.kernel import run

    config, bundle = classes
    mount = Path(shutil.copytree(config.root / "data/raw", tmp_path / "mount"))
    monkeypatch.setattr(run, "PIECE", 7)
    whole = kernel(bundle, mount, tmp_path)
    sample = pd.read_csv(mount / "sample_submission.csv", dtype=str)
    images = {name: next((mount / "test_images").glob(f"{name}*")) for name in sample["id"]}
    rows = []
    for copy in range(4):
        for name, path in images.items():
            shutil.copy(path, path.with_name(f"{name}x{copy}{path.suffix}"))
            rows.append(f"{name}x{copy}")
    order = np.random.default_rng(0).permutation(rows)
    larger = pd.DataFrame({"id": order}).assign(**{c: "0" for c in sample.columns[1:]})
    larger.to_csv(mount / "sample_submission.csv", index=False)
    pd.DataFrame({"id": order}).to_csv(mount / "test.csv", index=False)
    found = kernel(bundle, mount, tmp_path).set_index("id")
    assert found.index.tolist() == order.tolist()
    expected = whole.set_index("id")
    for name in order:
        assert found.loc[name].tolist() == expected.loc[name.rpartition("x")[0]].tolist()


def test_a_test_set_of_a_hundred_times_the_size_is_held_piece_by_piece(classes, tmp_path, monkeypatch):
    from src.kernel import run

    config, bundle = classes
    mount = Path(shutil.copytree(config.root / "data/raw", tmp_path / "mount"))
    sample = pd.read_csv(mount / "sample_submission.csv", dtype=str)
    names = [f"{name}x{copy}" for copy in range(100) for name in sample["id"]]
    for name in names:
        os.link(mount / f"test_images/{name.partition('x')[0]}.png", mount / f"test_images/{name}.png")
    pd.DataFrame({"id": names, "label": "0"}).to_csv(mount / "sample_submission.csv", index=False)
    pd.DataFrame({"id": names}).to_csv(mount / "test.csv", index=False)
    stores: list[weakref.ref] = []
    others: list[int] = []
    read = run.read_images

    def watched(files, data, seen, tick):
        others.append(sum(store() is not None for store in stores))
        made = read(files, data, seen, tick)
        stores.append(weakref.ref(made[0]))
        assert len(made[0].pixels) <= 100
        return made

    def idle(members, stores, *_, **__):
        return [np.full((len(stores[0][0].test), 10), 0.1, np.float32) for _ in members]

    monkeypatch.setattr(run, "PIECE", 100)
    monkeypatch.setattr(run, "read_images", watched)
    monkeypatch.setattr(run, "predict_all", idle)
    assert len(kernel(bundle, mount, tmp_path)) == len(names) == 2400
    assert others == [0] * len(others)
    assert len(others) > 24


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def kernel_by_the_clock(config, bundle: Path, tmp_path: Path, monkeypatch, hours: float) -> tuple:
    """The kernel where a look at an image takes a second, one image a batch: what it wrote, and the plans."""
    from src.kernel import run

    short = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    about = read_json(short / "competition.json")
    about["members"][0]["config"]["inference"]["batch_size"] = 1
    write_json(short / "competition.json", about | {"hours": hours})
    clock, plans, ask = Clock(), [], members.Member.ask

    def slow(self, fold, store, sizes, plan, device, replay, report):
        def batch(rows: int) -> None:
            clock.now += self.views if plan.all_views else 1
            report(rows)

        plans.append(plan)
        return ask(self, fold, store, sizes, plan, device, replay, batch)

    monkeypatch.setattr(run, "Guard", lambda seconds, loads: Guard(seconds, loads, clock))
    monkeypatch.setattr(members.Member, "ask", slow)
    table = kernel(short, config.root / "data/raw", tmp_path)
    assert clock.now <= 3600 * hours - run.SPARE
    return table, plans


@pytest.mark.parametrize(("seconds", "last"), [(200, PLANS[0]), (80, PLANS[1]), (60, PLANS[2])])
def test_where_the_time_runs_out_the_guard_leaves_out_views_and_folds(
    classes, tmp_path, monkeypatch, seconds, last
):
    """24 images of two folds and two views: 96 seconds for all, 48 with one view, 24 with one fold too."""
    config, bundle = classes
    hours = (120 + seconds) / 3600
    table, plans = kernel_by_the_clock(config, bundle, tmp_path, monkeypatch, hours)
    assert plans[0] == PLANS[0]
    assert plans[-1] == last
    assert table["id"].tolist() == pd.read_csv(config.root / "data/raw/test.csv", dtype=str)["id"].tolist()


def test_images_that_the_time_does_not_suffice_for_hold_the_prior(bundled, tmp_path, monkeypatch, capsys):
    config, bundle = bundled
    whole = kernel(bundle, config.root / "data/raw", tmp_path)
    table, _ = kernel_by_the_clock(config, bundle, tmp_path, monkeypatch, (120 + 25) / 3600)
    late = int(re.search(r"OUT OF TIME: (\d+) of 24 images", capsys.readouterr().out)[1])
    assert 0 < late < 24
    assert table.iloc[:, 0].tolist() == whole.iloc[:, 0].tolist()
    rows = late * len(table) // 24  # of the last images
    assert (table.iloc[-rows:, 1:].nunique() == 1).all()


def test_two_gpus_share_the_models(classes, monkeypatch):
    """Each fold's model lies on one of them, and is asked there, by that one's own worker."""
    bundle, gpus = classes[1], [torch.device("cuda", number) for number in (0, 1)]
    monkeypatch.setattr(members, "load_model", lambda path, device: Placed(device))
    asked = []

    def ask(self, fold, store, sizes, plan, device, replay, report):
        asked.append((fold, device, threading.get_ident()))
        together.wait(30)  # both are at work at the same time
        return np.full((3, 10), fold, np.float32)

    together = threading.Barrier(2)
    monkeypatch.setattr(members.Member, "ask", ask)
    opened = members.open_members(bundle, read_json(bundle / "competition.json"), gpus)
    (said,) = members.predict_all(opened, [(None, [])], InferencePlan(), gpus)
    assert {(fold, device) for fold, device, _ in asked} == set(enumerate(gpus))
    assert len({worker for *_, worker in asked}) == 2
    assert said.tolist() == [[0.5] * 10] * 3


class Placed:
    """A model of which only the place is known."""

    def __init__(self, device: torch.device):
        self.device = device

    def parameters(self):
        yield self


def test_the_first_thing_written_is_a_valid_submission_of_the_prior(classes, tmp_path, monkeypatch):
    from src.kernel import run

    config, bundle = classes

    def broken(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(run, "open_members", broken)
    with pytest.raises(RuntimeError):
        run.run(bundle, config.root / "data/raw", tmp_path)
    first = pd.read_csv(tmp_path / "submission.csv", dtype=str)
    sample = pd.read_csv(config.root / "data/raw/sample_submission.csv", dtype=str)
    assert first.iloc[:, 0].tolist() == sample.iloc[:, 0].tolist()
    assert first.iloc[:, 1].nunique() == 1
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    run.run(bundle, config.root / "data/raw", tmp_path)  # there an exception would score nothing


def summary(folder: Path) -> dict:
    return read_json(folder / "summary.json")


@pytest.mark.parametrize("place", ["hidden/set2", "test_images/deeper/still", "TEST"])
def test_images_are_found_wherever_the_hidden_test_keeps_them(classes, tmp_path, capsys, place):
    config, bundle = classes
    mount = Path(shutil.copytree(config.root / "data/raw", tmp_path / "mount"))
    whole = kernel(bundle, mount, tmp_path)
    assert summary(tmp_path) == {"rows": 24, "images": 24, "predicted": 24, "prior": {}, "fallback": None}
    (mount / "test_images").rename(tmp_path / "away")
    (mount / place).mkdir(parents=True)
    for file in (tmp_path / "away").iterdir():
        cv2.imwrite(str(mount / place / f"{file.stem}.bmp"), cv2.imread(str(file)))
    pd.testing.assert_frame_equal(kernel(bundle, mount, tmp_path), whole)
    assert summary(tmp_path)["predicted"] == 24
    assert "WARNING" not in capsys.readouterr().out


def test_a_run_that_saw_no_image_says_so_in_its_log_and_its_summary(classes, tmp_path, capsys):
    config, bundle = classes
    mount = Path(shutil.copytree(config.root / "data/raw", tmp_path / "mount"))
    shutil.rmtree(mount / "test_images")
    kernel(bundle, mount, tmp_path)
    assert "WARNING: 24 of 24 rows hold the prior" in capsys.readouterr().out
    assert summary(tmp_path)["prior"] == {"image not found": 24}
    assert summary(tmp_path)["predicted"] == 0


@pytest.mark.parametrize("change", ["renamed", "case", "extra", "twice", "no sample", "no tables", "order"])
def test_hidden_tables_that_differ_cost_at_most_the_rows_concerned(classes, tmp_path, change):
    config, bundle = classes
    mount = Path(shutil.copytree(config.root / "data/raw", tmp_path / "mount"))
    whole = kernel(bundle, mount, tmp_path)
    path, ids = mount / "sample_submission.csv", whole["id"].tolist()
    expected, sample = whole, pd.read_csv(path, dtype=str)
    if change in ("renamed", "case"):
        name = {"renamed": "image_name", "case": "ID"}[change]
        expected = whole.rename(columns={"id": name})
        sample.rename(columns={"id": name}).to_csv(path, index=False)
        pd.DataFrame({name: ids}).to_csv(mount / "test.csv", index=False)
    elif change == "extra":
        expected = whole.assign(Usage="Private")
        sample.assign(Usage="Private").to_csv(path, index=False)
        pd.DataFrame({"site": "a", "id": ids}).to_csv(mount / "test.csv", index=False)
    elif change == "order":
        expected = whole[["label", "id"]]
        sample[["label", "id"]].to_csv(path, index=False)
    elif change == "twice":
        expected = pd.concat([whole, whole.iloc[[3]]], ignore_index=True)
        pd.concat([sample, sample.iloc[[3]]]).to_csv(path, index=False)
    else:
        path.unlink()
        if change == "no tables":
            (mount / "test.csv").unlink()
            expected = whole.sort_values("id", ignore_index=True)
    found = kernel(bundle, mount, tmp_path)
    if change == "twice":
        alone = ~expected["id"].duplicated(keep=False)
        assert found["id"].tolist() == expected["id"].tolist()
        assert found["label"][~alone].nunique() == 1
        assert summary(tmp_path)["prior"] == {"duplicate id": 2}
        found, expected = found[alone], expected[alone]
    pd.testing.assert_frame_equal(found, expected)


def test_a_bundle_names_the_file_that_is_damaged_and_the_earlier_bundle_stays(classes, tmp_path):
    config = classes[0].model_copy(
        update={"root": Path(shutil.copytree(classes[0].root, tmp_path / "copy", copy_function=shutil.copy2))}
    )
    before = (config.root / "kaggle/bundle/manifest.json").read_bytes()
    for place, change in {
        "fold1/model.safetensors": lambda whole: whole[:-100],
        "fold0/model.safetensors": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        "metrics.json": lambda whole: b"[]",
        "test.parquet": lambda whole: b"",
        "oof.parquet": lambda whole: whole[: len(whole) // 2],
    }.items():
        path = config.root / "runs/baseline" / place
        whole, times = path.read_bytes(), path.stat()
        path.write_bytes(change(whole))
        with pytest.raises(UserError, match=f"runs/baseline/{place}.*EXP=baseline"):
            build_bundle(config, config.root / "kaggle/bundle")
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (config.root / "kaggle/bundle/manifest.json").read_bytes() == before


def test_a_rehearsal_names_the_table_that_lacks_a_row(tmp_path):
    path = tmp_path / "runs/baseline/fold0/oof.parquet"
    write_parquet(path, pd.DataFrame({"id": ["a"], "cat": [0.5]}))
    assert stored_rows(path, ["a"]).index.tolist() == ["a"]
    with pytest.raises(UserError, match=r"fold0/oof\.parquet.*'b'"):
        stored_rows(path, ["a", "b"])


def test_a_stack_is_applied_as_stage_05_did(classes, tmp_path):
    from src.ensemble.members import find_members
    from src.ensemble.report import stack_runs

    config = classes[0].model_copy(
        update={"root": Path(shutil.copytree(classes[0].root, tmp_path / "whole"))}
    )
    second = config.model_copy(update={"name": "second", "seed": 7})
    forget_the_listings()
    train_run(run_of(second), (0, 1))
    predict_run(run_of(second), (0, 1))
    folders, _ = find_members(config)
    stack_runs(stack_step(config, folders), config, folders)
    path = config.root / "stacks/stack/stacker.json"
    stacker = read_json(path)
    mount = config.root / "data/raw"
    for kept in ("mean", "best single", *(name for name in stacker["blenders"] if name != "mean")):
        write_json(path, stacker | {"kept": kept})
        stack_step(config, folders).done()
        made = config.model_copy(update={"submit": config.submit.model_copy(update={"source": "stack"})})
        bundle = tmp_path / "bundle"
        build_bundle(made, bundle)
        found = kernel(bundle, mount, tmp_path)
        outputs = read_json(config.root / "data/dataset.json")["outputs"]
        tests = [pd.read_parquet(config.root / "runs" / name / "test.parquet") for name in stacker["members"]]
        wanted = apply_stack(stacker, [table[outputs].to_numpy() for table in tests], candidate=kept)
        labels = np.array(outputs)[np.asarray(wanted).argmax(1)]
        assert (found.iloc[:, 1].to_numpy() == labels).mean() > 0.85, kept


# --- the bundle ---------------------------------------------------------------------------------------------


def test_weights_are_halved_and_statistics_are_not(classes):
    config, bundle = classes
    path = config.root / "runs/baseline/fold0/model.safetensors"
    there = bundle / "members/baseline-fold0.safetensors"
    assert there.stat().st_size < 0.62 * path.stat().st_size
    own, half = load_model(path), load_model(there)
    for (name, one), (_, other) in zip(own.state_dict().items(), half.state_dict().items(), strict=True):
        if "running_" in name or not one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        else:
            torch.testing.assert_close(one, one.half().float() * 0 + other, rtol=1e-3, atol=1e-6)


def test_a_weight_that_half_precision_cannot_hold_stays_whole(tmp_path, classes):
    from safetensors.torch import load_file, save_file

    path = classes[0].root / "runs/baseline/fold0/model.safetensors"
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    state = load_file(path)
    name = next(name for name in state if name.endswith("weight"))
    state[name] = torch.full_like(state[name], 1e5)
    save_file(state, tmp_path / "a.safetensors", metadata=about)
    save_half(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert load_file(tmp_path / "b.safetensors")[name].max() == 1e5


def test_an_average_of_ranks_is_refused(classes):
    config, _ = classes
    page = config.root / "runs/baseline/config.yaml"
    text = page.read_text()
    page.write_text(text.replace("average: probability", "average: rank").replace("accuracy", "accuracy"))
    try:
        with pytest.raises(Exception, match=r"inference\.average=rank"):
            build_bundle(config, config.root / "kaggle" / "other")
    finally:
        page.write_text(text)


def test_a_backbone_that_kaggles_image_lacks_is_refused(classes):
    config, _ = classes
    page = config.root / "runs/baseline/config.yaml"
    text = page.read_text()
    page.write_text(text.replace("backbone: test_resnet", "backbone: lcnetv2_small"))
    try:
        with pytest.raises(UserError, match=r"runs/baseline/config\.yaml: .*lcnetv2_small"):
            build_bundle(config, config.root / "kaggle" / "other")
    finally:
        page.write_text(text)


@pytest.mark.parametrize(
    ("backbone", "code", "warned"),
    [("lcnetv2_small", True, True), ("lcnetv2_small", False, False), ("resnet18", True, False)],
)
def test_stage_02_warns_of_such_a_backbone(capsys, backbone, code, warned):
    config = Config(model={"backbone": backbone}, kaggle={"code_competition": code})
    warn_of_image(run_of(config))
    assert (backbone in capsys.readouterr().out) is warned


def test_a_backbone_that_timm_does_not_know_is_no_broken_file(classes, tmp_path):
    """What a kernel says whose timm is older than the one that trained its models."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = classes[1] / "members/baseline-fold0.safetensors"
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["architecture"])
    made = {"architecture": json.dumps(about | {"backbone": "resnet_of_tomorrow"})}
    save_file(load_file(path), tmp_path / "a.safetensors", metadata=made)
    with pytest.raises(UserError, match=r"a\.safetensors: .*timm [\d.]+ does not know resnet_of_tomorrow"):
        members.open_model(tmp_path, "a.safetensors", torch.device("cpu"))


def test_the_notebook_is_the_script(tmp_path):
    write_notebook(ROOT / "kernel/infer.py", tmp_path / "infer.ipynb")
    page = json.loads((tmp_path / "infer.ipynb").read_text())
    assert "".join(page["cells"][0]["source"]) == (ROOT / "kernel/infer.py").read_text()


# --- the file that runs on Kaggle ---------------------------------------------------------------------------


def run_kernel(folder: Path) -> subprocess.CompletedProcess[str]:
    names = ("PATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {"KAGGLE_INPUT_DIR": str(folder / "input"), "KAGGLE_WORKING_DIR": str(folder / "working")}
    shutil.copy(ROOT / "kernel/infer.py", folder / "script.py")
    return processes.run([sys.executable, "script.py"], cwd=folder, env=environment)


def test_a_changed_file_of_the_bundle_ends_the_kernel_with_its_name(classes, tmp_path):
    shutil.copytree(classes[1], tmp_path / "input/digits-bundle")
    (tmp_path / "input/digits-bundle/competition.json").write_text("{}")
    done = run_kernel(tmp_path)
    assert done.returncode == 1
    assert "competition.json: is not the file that was sent" in done.stderr
    shutil.rmtree(tmp_path / "input/digits-bundle")
    assert "no bundle below" in run_kernel(tmp_path).stderr


@pytest.mark.parametrize("script", ["infer", "train"])
@pytest.mark.parametrize("foreign", ["[]", "3", "null", "no json", '"text"', "\udcff"])
def test_a_foreign_manifest_does_not_hide_ours(tmp_path, script, foreign):
    """Another attached dataset, which comes first by name, holds a manifest of its own."""
    found = runpy.run_path(str(ROOT / f"kernel/{script}.py"))
    for name in ("aaa", "mine"):
        (tmp_path / "datasets/me" / name).mkdir(parents=True)
    (tmp_path / "datasets/me/aaa/manifest.json").write_text(foreign, errors="surrogateescape")
    mine = tmp_path / "datasets/me/mine"
    write_json(mine / "manifest.json", {"made_by": "nntricks-comp", "bundle_hash": "1", "sha256": {}})
    write_json(mine / "competition.json", {})
    look = found["find_bundle"] if script == "infer" else found["find_code"]
    look.__globals__["INPUT"] = tmp_path
    assert (look()[0] if script == "infer" else look("1")) == mine
