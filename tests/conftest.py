"""What the tests of the template share: a clean copy of it, and bakes from that copy."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = "<<cookiecutter.comp_name>>"

# What was fetched once is not fetched again for the other home folder below.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("UV_CACHE_DIR", str(CACHE / "uv"))

# Set before cookiecutter is imported, which looks the home folder up once: no test reads the developer's
# settings, and none leaves a replay file or a clone there.
HOME = tempfile.TemporaryDirectory(prefix="nntricks-home-")
os.environ.update(
    HOME=HOME.name,
    GIT_CONFIG_NOSYSTEM="1",
    GIT_AUTHOR_NAME="test",
    GIT_AUTHOR_EMAIL="test@example.org",
    GIT_COMMITTER_NAME="test",
    GIT_COMMITTER_EMAIL="test@example.org",
)
# As the Makefile does, for a bare `pytest`.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NO_ALBUMENTATIONS_UPDATE"):
    os.environ.setdefault(variable, "1")


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, whoever owns it (a container's checkout is root's), and return what it prints."""
    command = ["git", "-c", "safe.directory=*", *arguments]
    run = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return run.stdout


def source_files() -> list[Path]:
    """The template's files, relative to its root: what git tracks, or would if it were added now."""
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return sorted(Path(name) for name in set(listed) if name and (ROOT / name).is_file())


def files_of(folder: Path) -> set[str]:
    """Every file below a folder, relative to it, without git's own."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if path.parts[0] != ".git"}


def commit_all(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """The template as a fresh clone has it: cookiecutter copies a working folder with its caches and junk."""
    copy = tmp_path_factory.mktemp("template") / "nntricks-comp"
    for name in source_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    git(copy, "-c", "init.defaultBranch=main", "init", "--quiet")
    commit_all(copy, "the template")
    return copy


def bake_into(folder: Path, template: Path, **answers: str) -> Path:
    """Bake a project as `cookiecutter --no-input name=answer ...` does."""
    from cookiecutter.main import cookiecutter

    options = {"no_input": True, "default_config": True, "output_dir": str(folder)}
    return Path(cookiecutter(str(template), extra_context=answers, **options))


@pytest.fixture
def bake(template, tmp_path) -> Callable[..., Path]:
    """Bake into the test's own folder."""
    return lambda **answers: bake_into(tmp_path, template, **answers)


@pytest.fixture(scope="session")
def project(template, tmp_path_factory) -> Path:
    """One project with every default, for tests that only look at it."""
    return bake_into(tmp_path_factory.mktemp("baked"), template)
