"""The walls of a rehearsal, its test sets and its projection. What it catches: tests/project/test_zoo.py."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from competitions import prepare_competition
from conftest import ROOT

from src.artifacts import write_json
from src.config import Config, UserError
from src.configfile import load_config
from src.data.tables import load_tables
from src.kernel import image, rehearse, sandbox, test_sets, verdict
from src.kernel.pace import PACE
from src.kernel.projection import projection
from src.kernel.sandbox import KernelResult, namespaces, run_kernel
from src.kernel.test_sets import TestImage, renamed, write_mounts
from src.kernel.time_guard import PLANS

PROJECT = ROOT
WAYS = [True, False] if namespaces() else [False]


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
def test_nothing_of_this_machine_is_in_sight_but_the_system_and_python(tmp_path, project):
    """A file beside the project, as weights that a competitor keeps elsewhere."""
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("of another project")
    done = play(
        "import os, pathlib, numpy\n"
        f"seen = pathlib.Path({str(elsewhere)!r}).exists()\n"
        "print(seen, sorted(os.listdir('/tmp')), os.listdir('/kaggle'))\n",
        tmp_path,
        project,
        True,
    )
    pythons = [folder for folder in sandbox.python_folders() if folder.is_relative_to("/tmp")]
    of_python = sorted({folder.relative_to("/tmp").parts[0] for folder in pythons})  # where it lies there
    assert (done.status, done.said.strip()) == (0, f"False {of_python} ['home', 'working', 'input']")


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


@pytest.mark.parametrize("isolated", WAYS)
def test_what_kaggle_lacks_cannot_be_imported_by_us_and_can_by_libraries(tmp_path, project, isolated):
    done = play(
        "import omegaconf  # which imports yaml\n"
        "try: import yaml\n"
        "except ImportError as error: print(error)\n",
        tmp_path,
        project,
        isolated,
        absent={"yaml"},
    )
    assert (done.status, done.said.strip()) == (0, "No module named 'yaml' in Kaggle's image")


def test_what_kaggle_lacks_cannot_be_imported_by_any_other_way(tmp_path, project):
    done = play(
        "import importlib, importlib.util\n"
        "from importlib import import_module\n"
        "import omegaconf  # which has imported yaml\n"
        "def late(): import yaml.nodes\n"
        "ways = [late, lambda: __import__('yaml'), lambda: import_module('yaml')]\n"
        "ways += [lambda: importlib.__import__('yaml'), lambda: importlib.import_module('yaml.nodes')]\n"
        "for way in ways:\n"
        "    try: way()\n"
        "    except ModuleNotFoundError as error: print(error.name)\n"
        "print(importlib.util.find_spec('yaml'), importlib.util.find_spec('json') is not None)\n"
        "print(import_module('json').__name__, import_module('.decoder', 'json').__name__)\n",
        tmp_path,
        project,
        False,
        absent={"yaml"},
    )
    assert done.said.split() == (
        ["yaml.nodes", "yaml", "yaml", "yaml", "yaml.nodes", "None", "True", "json", "json.decoder"]
    )


def test_another_python_can_run_the_kernel(tmp_path, project):
    """That of the versions of Kaggle's image, which has an environment of its own."""
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nOTHER=yes exec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    done = play("import os; print(os.environ['OTHER'])", tmp_path, project, False, interpreter=other)
    assert (done.status, done.said.strip()) == (0, "yes")


def test_the_lock_and_the_list_beside_it_say_what_kaggle_has():
    """Names of modules, which are not always those of packages."""
    lacking = image.absent(PROJECT / image.LOCK)
    assert "iterstrat" in lacking
    assert not lacking & {"torch", "cv2", "yaml", "PIL", "sklearn", "albumentations", "wandb", "pyarrow"}
    assert not lacking & {"requests", "six", "attr", "attrs", "urllib3", "pywt"}
    assert image.absent(PROJECT / "requirements/none.lock") == frozenset()


def test_a_log_names_the_versions_that_differ(monkeypatch):
    monkeypatch.setattr(image.metadata, "version", {"torch": "2.10.0", "timm": "1.0.26"}.get)
    monkeypatch.setattr(image, "_PACKAGES", ("torch", "timm"))
    said = image.versions_line({"torch": "2.15.0", "timm": "1.0.26", "opencv": "5"})
    assert said.endswith("torch 2.10.0 (bundle: 2.15.0), timm 1.0.26")


# --- the projection -----------------------------------------------------------------------------------------


def outcome(memory: float, disk: float, working: Path = Path()) -> KernelResult:
    return KernelResult(0, "", 10.0, memory, disk, working)


def projected(folder: Path, pace: dict, **kaggle) -> tuple[str, bool]:
    """The projection of a kernel that measured this: 40 ms an image, of which 10 are for reading it, 30 for
    the networks of all folds and views, and 2 for the cheapest plan."""
    networks = dict(zip(map(str, PLANS), (0.03, 0.01, 0.006, 0.004, 0.002), strict=True))
    told = {"images": 900, "reading": 0.01, "networks": networks, "growth": 0.0, "cores": 2}
    told |= {"peak": 1100.0, "piece": 301, "started": 60.0, "writing": 0.0} | pace
    write_json(folder / PACE, told)
    cases = [
        verdict.Case("one row", 1, outcome(500, 0.01), None),
        verdict.Case("hidden", 301, outcome(9000, 3.01, folder), None),
    ]
    config = Config(competition={"slug": "digits"}, kaggle=kaggle)
    lines, fits = projection(config, cases, here=100)
    return "\n".join(lines), fits


@pytest.mark.parametrize(
    ("images", "fits", "hours", "plan"),
    [
        (None, True, "0.05", None),  # 180 s for starting and ending, 4 for 100 images
        (100_000, True, "1.16", None),
        (1_000_000, True, "11.16", "one view, all folds"),
        (3_000_000, False, "33.38", None),  # 10.05 with the cheapest plan
    ],
)
def test_the_time_of_the_hidden_test_is_projected_for_every_plan(tmp_path, images, fits, hours, plan):
    said, found = projected(tmp_path, {}, hidden_images=images)
    assert found is fits
    assert f"{hours} of 9 h" in said
    assert ("go on with" in said) is (plan is not None)
    assert plan is None or f"go on with {plan}" in said
    assert ("kaggle.network_speedup" in said) is not fits
    assert ("10.05 h even with one view, one fold" in said) is not fits


def test_what_differs_on_kaggle_is_taken_into_account(tmp_path):
    """Networks on a faster device; images read by four cores in place of eight."""
    million = {"hidden_images": 1_000_000}
    faster = projected(tmp_path, {}, **million, network_speedup=30)[0]
    assert f"{(180 + 1e6 * (0.01 + 0.001)) / 3600:.2f} of 9 h" in faster
    slower = projected(tmp_path, {"cores": 8}, **million)[0]
    assert f"{(180 + 1e6 * (0.02 + 0.03)) / 3600:.2f} of 9 h" in slower


@pytest.mark.parametrize(
    ("growth", "images", "fits", "memory"),
    [(0.0, 10_000, True, 500 + 2 * 512), (8.0, 6000, False, 500 + 2 * 512 + 48_000), (8.0, 100, True, 1500)],
)
def test_the_memory_is_what_is_held_together_and_what_grows(tmp_path, growth, images, fits, memory):
    """600 MiB for 300 images more in a piece: 2 MiB each."""
    said, found = projected(tmp_path, {"growth": growth}, hidden_images=images)
    assert found is fits
    assert f"peak memory {memory:,.0f} of 29,000 MiB" in said


def test_the_working_folder_is_projected_too(tmp_path):
    assert "working folder 100.0 of 20,000 MiB" in projected(tmp_path, {}, hidden_images=10_000)[0]


def test_a_kernel_that_measures_nothing_is_passed_with_a_word(tmp_path):
    cases = [verdict.Case(name, 1, outcome(500, 0.01, tmp_path), None) for name in ("one row", "hidden")]
    (line,), fits = projection(Config(competition={"slug": "digits"}), cases, here=100)
    assert fits
    assert PACE in line


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
def test_a_case_is_a_competition_of_its_own(tmp_path, task, monkeypatch):
    config = load_config(prepare_competition(tmp_path / task, task), ["competition.slug=digits"])
    tables = load_tables(config)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    asked = rehearse.hidden(config, tables)[:7]
    asked[3] = TestImage(asked[3].id, asked[3].like, asked[3].file, None)
    write_mounts(config, tables, bundle, tmp_path / "input", asked, old=False)
    place = tmp_path / "input/competitions/digits"
    test = pd.read_csv(place / "test.csv", dtype=str)
    assert test["id"].tolist() == [one.id for one in asked]
    sample = pd.read_csv(place / "sample_submission.csv", dtype=str)
    assert list(dict.fromkeys(sample["id"])) == [one.id for one in asked]
    files = {path.stem for path in (place / "test_images").iterdir()}
    assert files == {one.id for one in asked} - {asked[3].id}
    assert (tmp_path / "input/datasets/me/bundle/manifest.json").exists()
    # behind no walls a kernel may write into its input: never the files of this machine
    monkeypatch.setattr(test_sets, "namespaces", lambda: False)
    write_mounts(config, tables, bundle, tmp_path / "copies", asked, old=True)
    for file in [path for path in (tmp_path / "copies").rglob("*") if path.is_file()]:
        assert file.stat().st_nlink == 1
        file.write_text("spoiled")
    assert (bundle / "manifest.json").read_text() == "{}"
    assert all(one.file.read_bytes() != b"spoiled" for one in asked)


def test_a_temporary_folder_that_is_too_small_is_named_before(tmp_path, monkeypatch):
    bundle, folder = tmp_path / "bundle", tmp_path / "small" / "input"
    for path in (bundle, folder):
        path.mkdir(parents=True)
    (bundle / "weights").write_bytes(bytes(3 * 2**20))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        test_sets.shutil, "disk_usage", lambda _: usage._replace(free=test_sets.SPARE_ROOM + 2**21)
    )
    test_sets.check_space_for_copies(folder, bundle, [], linked=True)
    with pytest.raises(UserError, match=rf"{folder.parent}.*67 MiB.*66 are free.*TMPDIR"):
        test_sets.check_space_for_copies(folder, bundle, [], linked=False)
