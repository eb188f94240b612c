"""What the tests of the template share: a clean copy of it, and bakes from that copy."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = "<<cookiecutter.comp_name>>"

sys.path.append(str(ROOT / "tests"))
import processes  # noqa: E402

# Before cookiecutter is imported, which looks the home folder up once: no test reads anyone's own settings,
# and none leaves a replay file or a clone there.
processes.isolate()
GITCONFIG = "[user]\n\tname = test\n\temail = test@example.org\n[safe]\n\tdirectory = *\n"
Path(processes.HOME.name, ".gitconfig").write_text(GITCONFIG)  # safe: a container's checkout is root's


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return what it prints."""
    return processes.run(["git", *arguments], cwd=folder, check=True).stdout


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
