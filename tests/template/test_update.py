"""A project can be baked from GitHub and follow the template with cruft; offline here, by local clones."""

import sys
from pathlib import Path

import processes
import pytest
from conftest import PROJECT, bake_into, commit_all, files_of, git


@pytest.fixture
def upstream(template, tmp_path) -> Path:
    """A clone of the template that a test may change."""
    git(tmp_path, "clone", "--quiet", str(template), "upstream")
    return tmp_path / "upstream"


def create(upstream: Path, folder: Path, **answers: str) -> Path:
    """`cruft create`, and a first commit, as cruft wants a clean project for an update."""
    import cruft

    folder.mkdir()
    options = {"no_input": True, "default_config": True, "output_dir": folder}
    project = Path(cruft.create(str(upstream), extra_context=answers, **options))
    commit_all(project, "baked")
    return project


def contents(project: Path) -> dict[str, bytes]:
    return {name: (project / name).read_bytes() for name in files_of(project)}


def test_cruft_bakes_what_cookiecutter_bakes(upstream, template, tmp_path):
    answers = {"comp_name": "digits", "title": "Cats & 'dogs' \\", "license": "none"}
    by_cruft = contents(create(upstream, tmp_path / "cruft", **answers))
    assert b"upstream" in by_cruft.pop(".cruft.json")
    (tmp_path / "plain").mkdir()
    assert by_cruft == contents(bake_into(tmp_path / "plain", template, **answers))


def test_cruft_carries_a_fix_into_a_project_and_keeps_what_the_competitor_did(upstream, tmp_path):
    import cruft

    project = create(upstream, tmp_path / "out", comp_name="digits", title="Cats & 'dogs' \\")
    assert cruft.check(project)

    (project / "configs" / "mine.yaml").write_text("base: baseline.yaml\n")
    commit_all(project, "an experiment")
    for name, line in ((".gitignore", "/scratch/\n"), ("src/__init__.py", "# a fix\n")):
        with (upstream / PROJECT / name).open("a") as file:
            file.write(line)
    commit_all(upstream, "fixes")
    assert not cruft.check(project)

    assert cruft.update(project)
    assert cruft.check(project)
    assert (project / ".gitignore").read_text().endswith("/scratch/\n")
    assert (project / "src/__init__.py").read_text().endswith("# a fix\n")
    assert (project / "configs/mine.yaml").read_text() == "base: baseline.yaml\n"
    changed = {line.split()[-1] for line in git(project, "status", "--porcelain").splitlines()}
    assert changed == {".cruft.json", ".gitignore", "src/__init__.py"}


def test_the_command_of_the_readme_bakes_from_github(template, tmp_path):
    """git is told to look for github.com in a folder; everything else is what a competitor's machine does."""
    github = tmp_path / "github"
    git(tmp_path, "clone", "--quiet", "--bare", str(template), str(github / "org" / "nntricks-comp.git"))
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(f'[url "{github}/"]\n\tinsteadOf = https://github.com/\n')
    command = [sys.executable, "-m", "cookiecutter", "gh:org/nntricks-comp", "--no-input", "comp_name=digits"]
    run = processes.run(command, cwd=tmp_path, env=processes.environment(HOME=str(home)))
    assert run.returncode == 0, run.stdout + run.stderr
    (tmp_path / "plain").mkdir()
    assert contents(tmp_path / "digits") == contents(
        bake_into(tmp_path / "plain", template, comp_name="digits")
    )
