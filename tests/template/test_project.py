"""A baked project works where it lands: its own tests pass, and its Makefile says and does what it should."""

import re
import sys
from pathlib import Path

import processes
import pytest
from conftest import ROOT, bake_into


@pytest.fixture(scope="module")
def workplace(template, tmp_path_factory) -> Path:
    """A project to run things in; the one of the `project` fixture is only looked at."""
    return bake_into(tmp_path_factory.mktemp("workplace"), template, comp_name="digits")


def make(project: Path, *arguments: str):
    # This interpreter has all that the project needs; its own set-up would download it once more.
    return processes.run(["make", *arguments, f"PYTHON={sys.executable}"], cwd=project)


def test_the_projects_tests_pass_on_a_baked_project(workplace, capfd):
    # worksteal: a module's tests stay with one worker, which makes its fixtures once
    workers = ["-n", "2", "--dist", "worksteal"]
    settings = ["-c", workplace / "pyproject.toml", "--rootdir", ROOT / "tests" / "project"]
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, *settings]
    baked = processes.environment(BAKED_PROJECT=str(workplace))
    with capfd.disabled():  # ten minutes: progress and failures are shown as they come
        print()
        done = processes.run(
            [*pytest_run, ROOT / "tests" / "project"], cwd=workplace, env=baked, capture_output=False
        )
        assert done.returncode == 0


def test_make_alone_prints_every_target_in_order(workplace):
    makefile = (workplace / "Makefile").read_text()
    targets = [
        name for name in re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE) if name != "help"
    ]
    run = make(workplace)
    assert run.returncode == 0, run.stderr
    printed = [
        re.search(r"\b(?:make )?([a-z][a-z-]*)", line)[1] for line in run.stdout.splitlines() if line.strip()
    ]
    assert [name for name in printed if name in targets] == targets


def test_make_lint_is_content(workplace):
    run = make(workplace, "lint")
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_baked_projects_own_tests_pass(workplace):
    run = make(workplace, "test")
    assert run.returncode == 0, run.stdout + run.stderr
