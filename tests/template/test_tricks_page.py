"""docs/tricks.md is a map: every key, room and test that it names is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "<<cookiecutter.comp_name>>"
PAGE = (ROOT / "docs" / "tricks.md").read_text(encoding="utf-8")
KNOWN = """
from src.configfile import known_keys
def walk(tree, prefix=""):
    for name, inner in tree.items():
        print(prefix + name)
        if isinstance(inner, dict):
            walk(inner, f"{prefix}{name}.")
walk(known_keys())
"""


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    part = PAGE.split(f"\n{heading}\n")[1].split("\n#")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


CATALOGUE, TRAPS = rows("## The catalogue"), rows("## Traps")


@pytest.fixture(scope="module")
def keys() -> set[str]:
    done = processes.run([sys.executable, "-c", KNOWN], cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("row", CATALOGUE, ids=[row[0] for row in CATALOGUE])
def test_a_tricks_key_room_and_tests_are_there(row, keys):
    assert len(row) == 6, "name, paper, key, room, tests, measured"
    _, _, key, rooms, tests, _ = row
    for word in quoted(key):
        name = word.partition("=")[0].removesuffix(".*")
        if word.startswith("make "):
            target = word.removeprefix("make ")
            assert f"\n{target}:" in (PROJECT / "Makefile").read_text(encoding="utf-8")
        elif "." in name or name in keys:
            assert name in keys, word
        else:  # another value of the key before it, such as `inverse_time`
            assert "." in quoted(key)[0]
    for room in quoted(rooms):
        assert (PROJECT / "src" / room).exists(), room
    for test in quoted(tests):
        assert (ROOT / "tests" / "project" / test).exists(), test
    assert quoted(rooms)
    assert quoted(tests)


@pytest.mark.parametrize("row", TRAPS, ids=[row[0] for row in TRAPS])
def test_a_traps_tests_are_there(row):
    for name in quoted(row[2]):
        file, _, test = name.partition("::")
        text = (ROOT / "tests" / "project" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in text, name
    assert quoted(row[2])
