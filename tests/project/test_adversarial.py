"""Adversarial validation: alike sets are not told apart, a planted difference is, and named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from src.artifacts import read_json
from src.commands import adversarial
from src.commands.adversarial import _describe, image_features, out_of_fold

SIDE = 24


def images(random, count: int, darker: float = 0.0) -> np.ndarray:
    """Noise of many brightnesses, (N, S, S, 3)."""
    level = random.uniform(60, 200, (count, 1, 1, 3)) * (1 - darker)
    return np.clip(random.normal(level, 20, (count, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def told(darker: float, sizes=((64, 64), (64, 64)), seed: int = 0):
    random = np.random.default_rng(seed)
    pixels = np.concatenate([images(random, 300), images(random, 300, darker)])
    positions, is_test = np.arange(600), np.repeat([0, 1], 300)
    looks = image_features(pixels, positions, [sizes[part] for part in is_test])
    said, folds, gain = out_of_fold(looks, is_test, positions, seed)
    return looks, is_test, said, folds, gain


def test_images_of_one_kind_are_not_told_apart():
    folds = np.concatenate([told(0.0, seed=seed)[3] for seed in range(4)])
    assert abs(folds.mean() - 0.5) < 3 * folds.std(ddof=1) / np.sqrt(len(folds))


def test_darker_images_are_told_and_the_reason_is_named():
    looks, is_test, said, folds, gain = told(0.4)
    assert np.mean(folds) > 0.75
    assert roc_auc_score(is_test, said) > 0.75
    assert next(iter(gain)).startswith(("brightness", "view"))
    lines = _describe(looks, is_test, folds, gain)
    assert "other images than the training set" in lines[1]
    assert len(lines) == 5


def test_another_size_gives_all_away():
    looks, is_test, _, folds, gain = told(0.0, sizes=((64, 64), (64, 80)))
    assert min(folds) == pytest.approx(1.0)
    assert next(iter(gain)) in ("width", "aspect")
    assert any(
        "median 64 in train, 80 in test" in line for line in _describe(looks, is_test, folds, gain)
    ) or ("median 1 in train, 1.25 in test" in "".join(_describe(looks, is_test, folds, gain)))


def test_copies_of_an_image_are_never_on_both_sides():
    """Every image stands once in each set: who has seen the one must not be asked about the other."""
    random = np.random.default_rng(0)
    pixels, positions = images(random, 300), np.tile(np.arange(300), 2)
    looks = image_features(pixels, positions, [(64, 64)] * 600)
    _, folds, _ = out_of_fold(looks, np.repeat([0, 1], 300), positions, 0)
    assert abs(np.mean(folds) - 0.5) < 0.05


@pytest.mark.parametrize(
    ("auc", "says"), [(0.55, "look like"), (0.7, "somewhat other"), (0.9, "holds other")]
)
def test_the_verdict_goes_by_the_auc_and_its_error(auc, says):
    looks = pd.DataFrame({"width": [1.0, 2.0]})
    folds = [auc - 0.01, auc, auc, auc, auc + 0.01]
    assert says in _describe(looks, np.array([0, 1]), folds, {"width": 1.0})[1]
    unsure = _describe(looks, np.array([0, 1]), [0.2, 1.0, 0.3, 1.0, 0.9], {"width": 1.0})
    assert "look like" in unsure[1]


def test_the_command_writes_a_table_a_picture_and_its_numbers(prepared, command):
    done = command(adversarial, prepared)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(prepared / "data/adversarial.csv", dtype={"id": str})
    assert table["set"].value_counts().to_dict() == {"train": 80, "test": 40}
    assert table["like_test"].is_monotonic_decreasing
    found = read_json(prepared / "data/adversarial.json")
    assert found["images"] == 120
    assert f"AUC {found['auc']:.3f} ± {found['standard_error']:.3f}" in done.stdout
    assert (prepared / "data/adversarial.png").read_bytes()[:4] == b"\x89PNG"
    assert sum(found["told_by"].values()) == pytest.approx(1, abs=0.01)


def test_before_stage_01_the_command_to_run_is_named(project, command):
    done = command(adversarial, project)
    assert done.returncode == 2
    assert "run `make folds EXP=baseline` first" in done.stderr
