"""Your own code keeps its contract: metrics in src/metrics/own.py, preprocessing in src/data/own.py."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from src.data import own as preprocessing
from src.metrics import own as metrics

FUNCTIONS = [
    function
    for name, function in inspect.getmembers(preprocessing, inspect.isfunction)
    if not name.startswith("_") and function.__module__ == preprocessing.__name__
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_preprocessing_maps_an_image_to_an_image_and_leaves_its_input_alone(function):
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    before = image.copy()
    first, second = function(image), function(image)
    assert isinstance(first, np.ndarray)
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert first.shape[2] == 3
    assert min(first.shape[:2]) > 0
    assert np.array_equal(image, before), "it changed the array it was given: work on a copy"
    assert np.array_equal(first, second), "the same image must give the same result"


@pytest.mark.parametrize("metric", metrics.METRICS, ids=lambda metric: metric.name)
def test_a_metric_has_a_direction_and_scores_the_truth_best(metric):
    """Tried for classification tasks; write a test of your own for another."""
    assert metric.sign in (-1, 1)
    if "multiclass" not in metric.tasks:
        pytest.skip(f"{metric.name} is for {', '.join(metric.tasks)}; only multiclass metrics are tried here")
    targets = np.arange(60) % 3
    truth, reverse = np.eye(3)[targets] * 0.98 + 0.01 / 3, np.eye(3)[(targets + 1) % 3] * 0.98 + 0.01 / 3
    right, wrong = metric(targets, truth), metric(targets, reverse)
    assert np.isfinite([right, wrong]).all()
    assert metric.better(right, wrong)
