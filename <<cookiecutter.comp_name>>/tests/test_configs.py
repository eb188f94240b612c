"""Every experiment in configs/ can be loaded: no unknown key, no value out of range, no key without
effect."""

from __future__ import annotations

import pytest
import yaml
from conftest import ROOT

from src.cli import check_known_names
from src.configfile import load_config

# ablate.yaml lists changes to try; it is no experiment.
EXPERIMENTS = sorted(
    path for path in (ROOT / "configs").glob("*.yaml") if path.stem not in ("ablate", "default")
)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_loads(path):
    config = load_config(path)
    check_known_names(config)
    assert config.name == path.stem or "name:" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_itself_once_more_from_what_is_stored_beside_its_run(path, tmp_path):
    config = load_config(path)
    (tmp_path / "configs").mkdir()
    stored = tmp_path / "configs" / "stored.yaml"
    stored.write_text(yaml.safe_dump(config.settings(), allow_unicode=True), encoding="utf-8")
    assert load_config(stored).settings() == config.settings()


def test_the_changes_to_ablate_are_lists_of_key_and_value():
    listed = yaml.safe_load((ROOT / "configs" / "ablate.yaml").read_text(encoding="utf-8"))["try"]
    assert listed
    assert [line for line in listed if not all("=" in change for change in line.split())] == []
