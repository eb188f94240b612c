"""The reference of config keys: complete, fresh, and printed for one key with the value that it has."""

from __future__ import annotations

from typing import get_args

import pytest
from conftest import ROOT, called

from src.commands import config
from src.config import Config, Section
from src.config.reference import entries, markdown, matching


def fields(section: type[Section], prefix: str = "") -> set[str]:
    """Dotted names of all keys that hold a value, those of sections that may be null too."""
    found = set()
    for name, field in section.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
        found |= fields(inner[0], f"{prefix}{name}.") if inner else {prefix + name}
    return found


def test_every_key_stands_in_the_reference_with_its_meaning():
    listed = {entry.key: entry.meaning for entry in entries() if not entry.is_section}
    assert listed.keys() == fields(Config) - {"root"}
    assert [key for key, meaning in listed.items() if len(meaning) < 10] == []


def test_the_page_of_keys_is_what_the_code_says_now():
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == markdown(), "write it anew: python -m src.commands.config --page docs/config.md"


def test_a_table_row_of_the_page_has_four_cells():
    for line in markdown().splitlines():
        if line.startswith("| "):
            assert line.replace("\\|", "").count("|") == 5, line


@pytest.mark.parametrize(("key", "value"), [("train.ema", "0.999"), ("model.drop_rate", "0.25")])
def test_a_key_is_explained_with_the_value_it_has(project, key, value):
    done = called(config.main, project, ["config", "--key", key, "model.drop_rate=0.25"])
    assert done.returncode == 0, done.stderr
    assert f" = {value} " in done.stdout
    assert matching(key)[-1].meaning.split()[0] in done.stdout


def test_a_key_that_does_not_exist_is_refused_with_near_ones(project):
    done = called(config.main, project, ["config", "--key", "train.emma"])
    assert done.returncode == 2
    assert "train.ema" in done.stderr
