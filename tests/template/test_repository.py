"""What a repository promises beside its code: one version, a changelog for it, actions pinned by hash."""

import re

import processes
import pytest
import yaml
from conftest import PROJECT, ROOT

PACKAGE = (ROOT / PROJECT / "src/__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r"^__version__ = \"(.+)\"$", PACKAGE, re.MULTILINE)[1]
WORKFLOWS = sorted([*ROOT.glob(".github/workflows/*"), *(ROOT / PROJECT).glob(".github/workflows/*")])


def test_the_changelog_opens_with_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == VERSION


@pytest.mark.parametrize("folder", [ROOT, ROOT / PROJECT], ids=["template", "project"])
def test_make_help_shows_the_version(folder):
    command = ["make", "--no-print-directory", "help"]
    shown = processes.run(command, cwd=folder, check=True).stdout
    assert shown.splitlines()[0].split()[-1] == VERSION


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_an_action_is_pinned_by_its_hash(path):
    """A tag can be moved to other code, a commit cannot."""
    text = path.read_text(encoding="utf-8")
    steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []
    assert len(re.findall(r"@[0-9a-f]{40} # v\d", text)) == len(used)
