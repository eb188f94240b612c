"""A zoo of kernels and bundles that would fail on Kaggle: the rehearsal catches each and names its cause."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from rehearsals import prepare_bundled, run_in_process, small_cases
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from src.artifacts import read_json, write_json
from src.config import UserError
from src.kernel import rehearse, verdict
from src.kernel.image import PYTHON
from src.kernel.sandbox import namespaces
from src.models.architecture import Architecture
from src.models.build import create_model
from src.submission.manifest import write_manifest

needs_namespaces = pytest.mark.skipif(not namespaces(), reason="this machine lets us make no namespaces")

# As short as a kernel can be that passes all but the replay: it knows no model.
HEALTHY = """\
import csv, os, sys
from pathlib import Path

inputs, working = (Path(os.environ[f"KAGGLE_{name}_DIR"]) for name in ("INPUT", "WORKING"))
place = next(inputs.rglob("sample_submission.csv")).parent
ids = [row["id"] for row in csv.DictReader(open(place / "sample_submission.csv"))]
rows, lost = [], 0
for name in ids:
    path = place / "test_images" / f"{name}.png"
    if not path.is_file() or path.read_bytes()[:4] != b"\\x89PNG":
        lost += 1
        rows.append([name, 0.5])
        continue
    value = path.stat().st_size % 100 / 100
    rows.append([name, value])
if lost:
    print(f"{lost} of {len(ids)} images were missing or broken")
header = ["id", "label"]
with open(working / "submission.csv", "w", newline="") as out:
    csv.writer(out).writerows([header, *rows])
"""
START, WRITTEN = "rows, lost = [], 0\n", 'header = ["id", "label"]\n'
LOOK = "    value = path"

# What is put before a line of the healthy kernel or in its place; the first case that it fails; the cause.
KERNELS = {
    "the public row count": (START, "ids = ids[:8]\n" + START, "hidden", "ends before row 10"),
    "ids of the training machine": (
        START,
        "ids = IDS\n" + START,
        "hidden",
        "sample_submission.csv has 'hidden",
    ),
    "an index column": (
        WRITTEN,
        'header = ["", "id", "label"]; rows = [[i, *row] for i, row in enumerate(rows)]\n',
        "public",
        "its columns are ['', 'id', 'label']",
    ),
    "another order of columns": (
        WRITTEN,
        'header = ["label", "id"]; rows = [row[::-1] for row in rows]\n',
        "public",
        "its columns are ['label', 'id']",
    ),
    "another order of rows": (WRITTEN, WRITTEN + "rows.reverse()\n", "public", "row 2 is"),
    "an id twice": (WRITTEN, WRITTEN + "rows[-1:] = rows[:1]\n", "public", "an id that stands there before"),
    "NaN": (LOOK, "    value = float('nan')  # ", "public", "row 2 holds nan in `label`"),
    "infinity": (LOOK, "    value = float('inf')  # ", "public", "row 2 holds inf in `label`"),
    "an empty cell": (LOOK, "    value = ''  # ", "public", "row 2 holds nothing in `label`"),
    "another file name": (
        '/ "submission.csv"',
        '/ "submissions.csv"',
        "public",
        "Not Found`), but submissions.csv",
    ),
    "another folder": ('working / "sub', 'Path.home() / "sub', "public", "wrote no submission.csv"),
    "an early end": (START, "sys.exit(0)\n" + START, "public", "Not Found`), but nothing"),
    "the network": (
        START,
        "import urllib.request; urllib.request.urlopen('http://example.org/weights', timeout=5)\n" + START,
        "public",
        "it asks the network, and a kernel has none: ",
    ),
    "a path of home": (
        START,
        "open('PROJECT/data/raw/train.csv')\n" + START,
        "public",
        "it reads a file of this machine, which Kaggle has not: FileNotFoundError",
    ),
    "a module that Kaggle lacks": (
        START,
        "import iterstrat\n" + START,
        "public",
        "it imports what Kaggle's image lacks: ModuleNotFoundError: No module named 'iterstrat'",
    ),
    "today's mounts alone": (
        START,
        "next(inputs.glob('competitions/*'))\n" + START,
        "old layout",
        "exit status 1: StopIteration",
    ),
    "yesterday's mounts alone": (
        START,
        "open(inputs / 'digits' / 'test.csv')\n" + START,
        "public",
        "No such file or directory",
    ),
    "a broken image": (
        'path.read_bytes()[:4] != b"\\x89PNG"',
        "path.read_bytes().index(b'PNG') != 1",
        "broken",
        "exit status 1: ValueError: subsection not found",
    ),
    "a broken image that is not noticed": (
        'path.read_bytes()[:4] != b"\\x89PNG"',
        "False",
        "broken",
        "two images were spoiled and the kernel did not count them",
    ),
    "no image": (START, START + "ids[0]\n", "empty", "exit status 1: IndexError: list index out of range"),
    "one image": (START, START + "assert len(ids) != 1\n", "one row", "exit status 1: AssertionError"),
    "the run that is scored": (
        START,
        START + "os.environ.get('KAGGLE_IS_COMPETITION_RERUN') and sys.exit('no TPU here')\n",
        "hidden",
        "exit status 1: no TPU here",
    ),
    "memory": (START, START + "held = b'x' * 2**28 if len(ids) > 8 else 0\n", "hidden", "and Kaggle has 150"),
    "time": (
        START,
        START + "import time; time.sleep(60 if len(ids) > 8 else 0)\n",
        "hidden",
        "it took longer than the 0.000833333 h of kaggle.hours",
    ),
}
WALLS = {  # what the weaker way lets through
    "a full working folder": (
        START,
        START + "(working / 'cache').write_bytes(bytes(2**24))\n",
        "public",
        "the working folder is full: OSError: [Errno 28]",
    ),
    "a write into the input": (
        START,
        START + "(place / 'resized.npy').write_bytes(b'')\n",
        "public",
        "it writes where nothing may be written: the input is read-only there: OSError: [Errno 30]",
    ),
}


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """A trained competition of probabilities with its bundle."""
    return prepare_bundled(tmp_path_factory.mktemp("made"), "binary")


@pytest.fixture
def project(tmp_path, bundled) -> Path:
    """What holds the kernel that is rehearsed."""
    (tmp_path / "project/kernel").mkdir(parents=True)
    (tmp_path / "project/requirements").mkdir()
    for name in ("kaggle.lock", "kaggle-packages.txt"):
        shutil.copy(ROOT / "requirements" / name, tmp_path / "project/requirements")
    return tmp_path / "project"


def played(config, project: Path, kernel: str) -> dict[str, str | None]:
    """What a rehearsal of a kernel says, case by case."""
    ids = (config.root / "data/raw/sample_submission.csv").read_text().split("\n")[1:9]
    kernel = kernel.replace("IDS", repr([line.split(",")[0] for line in ids]))
    kernel = kernel.replace("PROJECT", str(config.root))
    (project / "kernel/infer.py").write_text(kernel, encoding="utf-8")
    return {case.name: case.wrong for case in rehearse.rehearse(config, project)}


def test_the_healthy_kernel_passes_all_that_its_sick_kin_fail(bundled, project, monkeypatch):
    small_cases(monkeypatch, *[name for name in rehearse.CASES if name != "replay"])
    assert set(played(bundled, project, HEALTHY).values()) == {None}


@pytest.mark.parametrize(
    ("name", "animal"),
    [
        *KERNELS.items(),
        *[pytest.param(name, animal, marks=needs_namespaces) for name, animal in WALLS.items()],
    ],
)
def test_a_broken_kernel_is_caught_and_its_cause_is_named(bundled, project, monkeypatch, name, animal):
    old, new, first, cause = animal
    assert HEALTHY.count(old) == 1
    cases = ["public", "old layout", "hidden", "empty", "one row", "broken"]
    small_cases(monkeypatch, *cases[: cases.index(first) + 1])
    if name == "memory":
        monkeypatch.setattr(verdict, "MEMORY", 150)
    if name == "time":
        small_cases(monkeypatch, "hidden")  # on a busy machine a good one would be late too
        hours = bundled.kaggle.model_copy(update={"hours": 3 / 3600})
        bundled = bundled.model_copy(update={"kaggle": hours})
    if name == "a full working folder":
        monkeypatch.setattr(rehearse, "DISK", 5)
    *before, wrong = played(bundled, project, HEALTHY.replace(old, new)).values()
    assert set(before) <= {None}
    assert cause in (wrong or "")
    assert read_json(bundled.root / "kaggle/receipts/rehearsal.json")["passed"] is False


# --- bundles ------------------------------------------------------------------------------------------------


def reweighted(path: Path, change) -> None:
    """Write a weights file anew, with what `change` makes of its tensors."""
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    state = load_file(path)
    change(state)
    save_file(state, path, metadata=about)


def swapped(bundle: Path) -> None:
    zero, one = (bundle / f"members/baseline-fold{fold}.safetensors" for fold in (0, 1))
    content = zero.read_bytes()
    shutil.copy(one, zero)
    one.write_bytes(content)


def overflowing(bundle: Path) -> None:
    def change(state):
        first = next(name for name, tensor in state.items() if tensor.ndim == 4)
        state[first] = (state[first].float() * 1e9).half()

    reweighted(bundle / "members/baseline-fold0.safetensors", change)


def normalised_otherwise(bundle: Path) -> None:
    def change(state):
        (name,) = [name for name in state if name.rpartition(".")[2] == "std"]
        state[name] = state[name] * 2

    reweighted(bundle / "members/baseline-fold0.safetensors", change)


def cut(bundle: Path) -> None:
    path = bundle / "members/baseline-fold0.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_backbone(bundle: Path) -> None:
    path = bundle / "members/baseline-fold0.safetensors"
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["architecture"])
    values["backbone"] = "test_efficientnet"
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    torch.manual_seed(0)
    model = create_model(Architecture(**made))
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        path,
        metadata={"architecture": json.dumps(values)},
    )


def told_otherwise(change):
    """A bundle whose competition.json says something else."""

    def spoil(bundle: Path) -> None:
        about = read_json(bundle / "competition.json")
        change(about)
        write_json(bundle / "competition.json", about)

    return spoil


BUNDLES = {
    "weights of another fold": (
        swapped,
        "replay",
        "fold 0's models say something else here than in stage 03",
    ),
    "an overflow of half precision": (
        overflowing,
        "replay",
        "values that are no numbers: do its weights fit",
    ),
    "another normalisation": (normalised_otherwise, "replay", "say something else here"),
    "another backbone": (of_another_backbone, "replay", "say something else here"),
    "a cut weights file": (cut, "replay", "baseline-fold0.safetensors: holds no weights that can be used"),
    "another image size": (
        told_otherwise(lambda about: about["members"][0]["config"]["data"].update(image_size=24)),
        "replay",
        "say something else here",
    ),
    "a fold that was forgotten": (
        told_otherwise(lambda about: about["members"][0]["folds"].pop()),
        "public",
        "runs/baseline: the kernel says something else than stage 06, by ",
    ),
    "an experiment of another version": (
        told_otherwise(lambda about: about["config"].update(gamma=2)),
        "public",
        "exit status 1: ",
    ),
}


@pytest.fixture
def spoiled(bundled, tmp_path):
    """The competition again, with a bundle to spoil."""
    folder = Path(shutil.copytree(bundled.root, tmp_path / "spoiled", symlinks=True))
    return bundled.model_copy(update={"root": folder})


def test_the_good_bundle_passes_where_the_spoiled_ones_fail(spoiled, monkeypatch):
    small_cases(monkeypatch, "public", "replay")
    monkeypatch.setattr(rehearse, "run_kernel", run_in_process)
    assert [case.wrong for case in rehearse.rehearse(spoiled, ROOT)] == [None, None]


@pytest.mark.parametrize("name", BUNDLES)
def test_a_broken_bundle_is_caught_and_its_cause_is_named(spoiled, monkeypatch, name):
    spoil, case, cause = BUNDLES[name]
    bundle = spoiled.root / "kaggle/bundle"
    more = read_json(bundle / "manifest.json")
    spoil(bundle)
    write_manifest(bundle, **{key: more[key] for key in more.keys() - {"sha256", "bundle_hash"}})
    small_cases(monkeypatch, case)
    monkeypatch.setattr(rehearse, "run_kernel", run_in_process)
    (wrong,) = [case.wrong for case in rehearse.rehearse(spoiled, ROOT)]
    assert cause in (wrong or "")


def test_what_fails_under_the_versions_of_kaggles_image_alone_is_caught(spoiled, tmp_path, monkeypatch):
    """Where they are installed a fold is replayed under them too."""
    project = Path(shutil.copytree(ROOT / "kernel", tmp_path / "project/kernel")).parent
    python = project / PYTHON
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nOLD=1 exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    text = (project / "kernel/infer.py").read_text()
    change = 'if os.environ.get("OLD"):\n    sys.exit("torch has no such function")\n'
    (project / "kernel/infer.py").write_text(text.replace("BEGAN = ", change + "BEGAN = "))
    small_cases(monkeypatch, "empty")
    empty, versions = rehearse.rehearse(spoiled, project)
    assert (empty.name, empty.wrong, versions.name) == ("empty", None, "versions")
    assert "torch has no such function" in versions.wrong


def test_a_bundle_that_lacks_a_file_is_not_even_played(spoiled):
    (spoiled.root / "kaggle/bundle/members/baseline-fold1.safetensors").unlink()
    with pytest.raises(UserError, match=r"baseline-fold1\.safetensors: changed since the folder was made"):
        rehearse.rehearse(spoiled, ROOT)
