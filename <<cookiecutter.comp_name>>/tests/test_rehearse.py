"""A rehearsal passes for a good bundle on every test set, and catches what would fail on Kaggle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from competitions import prepare_competition

from src.artifacts import read_json
from src.configfile import load_config
from src.data.tables import load_tables
from src.inference.oof import predict_run
from src.kernel import rehearse, sandbox
from src.kernel.bundle import build_bundle
from src.kernel.mounts import Asked, lay_out, renamed
from src.kernel.sandbox import namespaces, run_kernel
from src.steps import run_of
from src.submission.manifest import write_manifest
from src.training.launch import train_run

PROJECT = Path(__file__).resolve().parents[1]
SETTINGS = ("submit.source=run:baseline", "competition.slug=digits", "train.epochs=2")
WAYS = [True, False] if namespaces() else [False]


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """A trained competition of classes with its bundle: its config."""
    config = load_config(prepare_competition(tmp_path_factory.mktemp("made"), "multiclass"), [*SETTINGS])
    train_run(run_of(config), (0, 1))
    predict_run(run_of(config), (0, 1))
    build_bundle(config, config.root / "kaggle" / "bundle")
    return config


@pytest.fixture
def few(monkeypatch):
    """Small cases: what takes time is starting."""
    for name, count in (("PUBLIC", 8), ("HIDDEN", 20), ("REPLAYED", 12)):
        monkeypatch.setattr(rehearse, name, count)


def test_a_good_bundle_passes_every_case_and_the_receipt_is_of_it(bundled, few, capsys):
    cases = rehearse.rehearse(bundled, PROJECT)
    assert {case.name: case.wrong for case in cases} == dict.fromkeys(rehearse.CASES)
    assert {case.name: case.images for case in cases} == {
        "public": 8,
        "old layout": 8,
        "hidden": 20,
        "empty": 0,
        "one row": 1,
        "broken": 8,
        "replay": 12,
    }
    receipt = read_json(bundled.root / "kaggle/receipts/rehearsal.json")
    manifest = read_json(bundled.root / "kaggle/bundle/manifest.json")
    assert receipt["passed"] is True
    assert receipt["bundle_hash"] == manifest["bundle_hash"]
    said = capsys.readouterr().out
    assert "images fit into 9 h" in said
    assert all(case.outcome.memory > 100 for case in cases if case.images)


def test_weights_of_another_fold_are_caught_by_the_replay(bundled, few, monkeypatch, tmp_path):
    folder = Path(shutil.copytree(bundled.root, tmp_path / "spoiled", symlinks=True))
    config = bundled.model_copy(update={"root": folder})
    members = folder / "kaggle/bundle/members"
    shutil.copy(members / "baseline-fold1.safetensors", members / "baseline-fold0.safetensors")
    old = read_json(folder / "kaggle/bundle/manifest.json")
    more = {key: value for key, value in old.items() if key not in ("sha256", "bundle_hash")}
    write_manifest(folder / "kaggle/bundle", **more)
    monkeypatch.setattr(rehearse, "CASES", {"one row": rehearse.CASES["one row"], "replay": rehearse.replay})
    monkeypatch.setattr(rehearse, "projection", lambda *_: ([], True))
    _, case = rehearse.rehearse(config, PROJECT)
    assert "fold 0's models say something else here" in case.wrong
    assert read_json(folder / "kaggle/receipts/rehearsal.json")["passed"] is False


# --- the sandbox --------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "secret.txt").write_text("at home")
    return folder


def play(text: str, tmp_path: Path, project: Path, isolated: bool, **more):
    mount = tmp_path / "input"
    mount.mkdir(exist_ok=True)
    (mount / "there.txt").write_text("mounted")
    script = tmp_path / "kernel.py"
    script.write_text(text)
    limit = more.pop("limit", 60)
    return run_kernel(script, mount, tmp_path / "out", project, limit, isolated=isolated, **more)


@pytest.mark.parametrize("isolated", WAYS)
def test_a_kernel_reads_its_input_and_leaves_what_it_wrote(tmp_path, project, isolated):
    done = play(
        "import os, pathlib\n"
        "said = pathlib.Path(os.environ['KAGGLE_INPUT_DIR'], 'there.txt').read_text()\n"
        "pathlib.Path(os.environ['KAGGLE_WORKING_DIR'], 'submission.csv').write_text(said)\n"
        "print('done', os.environ.get('EXTRA'))\n",
        tmp_path,
        project,
        isolated,
        EXTRA="given",
    )
    assert (done.status, done.said.strip()) == (0, "done given")
    assert (done.working / "submission.csv").read_text() == "mounted"
    assert sorted(path.name for path in done.working.iterdir()) == ["submission.csv"]
    assert done.memory > 5


@pytest.mark.parametrize("isolated", WAYS)
@pytest.mark.parametrize(
    "text",
    [
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9', timeout=3)",
        "import socket; socket.create_connection(('10.0.0.1', 80), timeout=3)",
        "import socket; socket.getaddrinfo('example.org', 80)",
    ],
)
def test_the_network_is_not_there(tmp_path, project, isolated, text):
    done = play(text, tmp_path, project, isolated)
    assert done.status == 1
    assert "rror" in done.said  # an OSError or a gaierror


@pytest.mark.parametrize("isolated", WAYS)
def test_home_is_empty_and_nothing_of_the_environment_comes_along(tmp_path, project, isolated, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    done = play(
        "import os, pathlib\n"
        "print(list(pathlib.Path.home().iterdir()), os.environ.get('KAGGLE_API_TOKEN'))\n",
        tmp_path,
        project,
        isolated,
    )
    assert done.said.strip() == "[] None"


needs_namespaces = pytest.mark.skipif(not namespaces(), reason="this machine lets us make no namespaces")


@needs_namespaces
def test_the_project_is_out_of_sight_and_the_input_cannot_be_written(tmp_path, project):
    done = play(
        "import os, pathlib\n"
        f"print(pathlib.Path({str(project / 'secret.txt')!r}).exists())\n"
        "try: pathlib.Path(os.environ['KAGGLE_INPUT_DIR'], 'x').write_text('y')\n"
        "except OSError as error: print(error.errno)\n",
        tmp_path,
        project,
        True,
    )
    assert done.said.split() == ["False", "30"]  # EROFS
    assert (project / "secret.txt").read_text() == "at home"


@needs_namespaces
def test_a_working_folder_that_overflows_is_an_error(tmp_path, project):
    done = play(
        "import os, pathlib\n"
        "pathlib.Path(os.environ['KAGGLE_WORKING_DIR'], 'large').write_bytes(bytes(20 * 2**20))\n",
        tmp_path,
        project,
        True,
        working_mib=5,
    )
    assert done.status == 1
    assert "No space left" in done.said


@pytest.mark.parametrize("isolated", WAYS)
def test_a_kernel_that_takes_too_long_is_ended(tmp_path, project, isolated):
    done = play("import time; time.sleep(60)", tmp_path, project, isolated, limit=3)
    assert done.status == 124
    assert done.seconds < 30


def test_without_namespaces_the_weaker_way_is_taken(monkeypatch):
    sandbox.namespaces.cache_clear()
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    assert not sandbox.namespaces()
    monkeypatch.undo()
    sandbox.namespaces.cache_clear()


# --- the mounts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "image", "name", "expected"),
    [
        ("a1", "a1", "x", "x"),
        ("a1_cat", "a1", "x", "x_cat"),
        ("a1", "a1.png", "x.png", "x"),
        ("a1.png_cat", "a1.png", "x.png", "x.png_cat"),
    ],
)
def test_a_row_keeps_its_class_where_its_image_is_called_otherwise(cell, image, name, expected):
    assert renamed(cell, image, name) == expected


@pytest.mark.parametrize("task", ["segmentation", "multilabel"])
def test_a_case_is_a_competition_of_its_own(tmp_path, task):
    config = load_config(prepare_competition(tmp_path / task, task), ["competition.slug=digits"])
    tables = load_tables(config)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    asked = rehearse.hidden(config, tables)[:7]
    asked[3] = Asked(asked[3].id, asked[3].like, asked[3].file, None)
    lay_out(config, tables, bundle, tmp_path / "input", asked, old=False)
    place = tmp_path / "input/competitions/digits"
    test = pd.read_csv(place / "test.csv", dtype=str)
    assert test["id"].tolist() == [one.id for one in asked]
    sample = pd.read_csv(place / "sample_submission.csv", dtype=str)
    assert list(dict.fromkeys(sample["id"])) == [one.id for one in asked]
    files = {path.stem for path in (place / "test_images").iterdir()}
    assert files == {one.id for one in asked} - {asked[3].id}
    assert (tmp_path / "input/datasets/me/bundle/manifest.json").exists()
