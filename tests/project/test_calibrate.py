"""Temperature scaling against scipy's minimiser, and what it does to each kind of prediction."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from src.config import Config, UserError
from src.maps import Maps
from src.pseudo.calibrate import at_temperature, calibrated, temperature
from src.tasks import create_task

OUTPUTS = ["cat", "dog", "cow"]


def overconfident(n: int = 400, seed: int = 0, factor: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `factor` times too large, and labels drawn by the right ones."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, 3))
    labels = np.array([random.choice(3, p=p) for p in softmax(logits, 1)])
    return factor * logits, labels


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_is_where_scipy_finds_the_likelihoods_peak(factor):
    logits, labels = overconfident(factor=factor)
    n = len(labels)
    wanted = np.full((n, 3), 1 / (n + 2) / 2)
    wanted[np.arange(n), labels] = (n + 1) / (n + 2)

    def loss(log_t: float) -> float:
        return -(wanted * log_softmax(logits / np.exp(log_t), 1)).sum()

    peak = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10})
    found = temperature(log_softmax(logits, 1), np.eye(3)[labels], rows=n)
    assert found == pytest.approx(np.exp(peak.x), rel=1e-5)
    assert found == pytest.approx(factor, rel=0.25)  # which is what made them too sure


def test_rows_without_a_mistake_make_nobody_surer_than_their_number_allows():
    """Thirty right rows of thirty: the likelihood alone would go on to certainty."""
    logs = np.log([[0.7, 0.2, 0.1]] * 30)
    t = temperature(logs, np.eye(3)[np.zeros(30, int)], rows=30)
    p = at_temperature(np.array([[0.7, 0.2, 0.1]], np.float32), t)[0]
    assert 0.7 < p[0] <= 31 / 32 + 1e-6


def test_a_temperature_of_one_changes_nothing_and_order_stays_at_any():
    said = np.random.default_rng(0).dirichlet([0.5] * 3, 50).astype(np.float32)
    np.testing.assert_allclose(at_temperature(said, 1.0), said, atol=2e-6)
    for t in (0.3, 4.0):
        found = at_temperature(said, t)
        np.testing.assert_allclose(found, softmax(np.log(np.clip(said, 1e-7, 1)) / t, 1), atol=2e-6)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    certain = at_temperature(np.array([[1.0, 0.0, 0.0]], np.float32), 2.0)
    assert np.isfinite(certain).all()


def table(said: np.ndarray, outputs: list[str], targets: pd.DataFrame) -> pd.DataFrame:
    own = pd.DataFrame(said, columns=outputs)
    return pd.DataFrame({"id": [f"{i}" for i in range(len(said))]}).join(targets).join(own)


def test_classes_are_calibrated_on_the_known_rows():
    logits, labels = overconfident()
    targets = pd.DataFrame({"target": np.array(OUTPUTS)[labels]})
    known = table(softmax(logits, 1).astype(np.float32), OUTPUTS, targets)
    fresh, right = overconfident(seed=1, n=2000)
    found = calibrated(softmax(fresh, 1).astype(np.float32), known, create_task(Config()), OUTPUTS)
    hits = found.argmax(1) == right
    assert abs(found.max(1).mean() - hits.mean()) < 0.03
    assert softmax(fresh, 1).max(1).mean() - hits.mean() > 0.15  # so sure were they before


def test_labels_share_one_temperature_over_all_their_cells():
    random = np.random.default_rng(0)
    logits = random.normal(size=(300, 2))
    truth = random.random((300, 2)) < 1 / (1 + np.exp(-logits))
    task = create_task(Config(task={"name": "multilabel"}))
    said = 1 / (1 + np.exp(-2.5 * logits))
    targets = pd.DataFrame(truth.astype(int).astype(str), columns=["target.cat", "target.dog"])
    known = table(said.astype(np.float32), ["cat", "dog"], targets)
    found = calibrated(said.astype(np.float32), known, task, ["cat", "dog"])
    doubt = 1 / 302

    def loss(log_t: float) -> float:
        p = 1 / (1 + np.exp(-2.5 * logits / np.exp(log_t)))
        wanted = np.where(truth, 1 - doubt, doubt)
        return -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).sum()

    t = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10}).x)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-2.5 * logits / t)), atol=1e-4)


def test_masks_are_calibrated_level_by_level_over_all_pixels():
    random = np.random.default_rng(0)
    logits = random.normal(size=(24, 1, 8, 8)) * 1.5
    truth = random.random(logits.shape) < 1 / (1 + np.exp(-logits))
    levels = np.round(255 / (1 + np.exp(-2 * logits))).astype(np.uint8)  # twice too sure
    task = create_task(Config(task={"name": "segmentation"}))
    masks = Maps.of((truth * 255).astype(np.uint8))
    known = pd.DataFrame({"id": [f"{i}" for i in range(24)], "target": [cell[0] for cell in masks.cells]})
    said = Maps.of(levels).resized([(8, 8)] * 24)
    found = calibrated(said, known.join(task.write(said, ["mask"])), task, ["mask"])
    own = np.stack(list(found.resized(None))) / 255
    wanted = np.clip(1 / (1 + np.exp(-logits)), 1 / 510, 509 / 510)
    middling = np.abs(logits) < 1.5  # at the ends a level holds many logits
    assert np.abs(own - wanted)[middling].max() < 0.08
    assert found.sizes == said.sizes


def test_too_few_known_rows_are_counted_and_said_what_to_do():
    logits, labels = overconfident(19)
    known = table(softmax(logits, 1), OUTPUTS, pd.DataFrame({"target": np.array(OUTPUTS)[labels]}))
    with pytest.raises(UserError, match=r"there are 19 of them; 20 are needed: lower cv\.stop_parts"):
        calibrated(softmax(logits, 1), known, create_task(Config()), OUTPUTS)
