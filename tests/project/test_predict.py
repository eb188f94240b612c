"""A fold model's predictions: views averaged, in the targets' own units."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from trainers import CPU, read, store_of

from src.config import Config, Inference, UserError
from src.data.views import VIEWS
from src.inference.oof import check_predictions
from src.inference.predict import embed, predict, predict_maps
from src.models.build import Architecture, create_model
from src.tasks import create_task


@pytest.mark.parametrize("average", ["probability", "logit"])
@pytest.mark.parametrize("views", [("identity",), ("identity", "hflip", "rot90", "up")])
def test_a_prediction_is_the_average_over_the_views_in_the_rows_own_order(project, views, average):
    pixels = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)
    positions = np.random.default_rng(1).permutation(11)[:9]
    torch.manual_seed(0)
    model = create_model(Architecture("test_resnet", 4, 16, (0.5,) * 3, (0.05,) * 3))
    task, settings = create_task(read(project)), Inference(tta=views, average=average, batch_size=4)
    found, spread = predict(model, task, store_of(pixels), positions, settings, CPU)
    images = torch.from_numpy(pixels[positions]).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = torch.stack([model.eval()(VIEWS[view](images)).logits for view in views])
    expected = logits.mean(0).softmax(1) if average == "logit" else logits.softmax(2).mean(0)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert found.dtype == np.float32
    if len(views) == 1:
        assert spread is None
    else:  # how far the views of a row are apart
        apart = logits.softmax(2).numpy().std(axis=0).mean(axis=1)
        np.testing.assert_allclose(spread, apart, rtol=1e-4, atol=1e-6)
        assert apart.min() > 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_refused_with_the_first_row(project, value):
    task = create_task(read(project))
    table = pd.DataFrame({"id": ["a", "b", "c"], "cat": [0.2, value, 0.1], "dog": [0.8, 0.5, 0.9]})
    with pytest.raises(UserError, match=r"base fold 1: .*1 of 3 rows.*'b'"):
        check_predictions(table, task, ["cat", "dog"], "base fold 1")
    check_predictions(table.fillna(0.5).replace(np.inf, 0.5), task, ["cat", "dog"], "base fold 1")


def test_embeddings_and_maps_that_are_not_finite_are_refused(project):
    torch.manual_seed(0)
    model = create_model(Architecture("test_resnet", 4, 16, (0.5,) * 3, (0.05,) * 3))
    next(model.backbone.parameters()).data.fill_(torch.nan)
    store = store_of(np.zeros((3, 16, 16, 3), np.uint8))
    with pytest.raises(UserError, match="not finite"):
        embed(model, store, np.arange(3), Inference(tta=("identity",)), CPU)
    sizes, data = [(16, 16)] * 3, read(project).data
    task = create_task(Config(task={"name": "segmentation"}))
    maps = mock.Mock(side_effect=lambda images: mock.Mock(logits=images[:, :1] * torch.nan))
    maps.to.return_value.eval.return_value = maps
    with pytest.raises(UserError, match="not finite"):
        predict_maps(maps, task, store, np.arange(3), sizes, Inference(tta=("identity",)), data, CPU)


@pytest.mark.parametrize("average", ["probability", "logit"])
@pytest.mark.parametrize("log", [False, True])
def test_a_predicted_number_and_its_spread_are_in_the_targets_own_units(log, average):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    scale = {"target_mean": (3.0, -1.0), "target_std": (0.5, 2.0), "target_log": log}
    torch.manual_seed(0)
    model = create_model(Architecture("test_resnet", 2, 16, (0.5,) * 3, (0.05,) * 3, **scale)).eval()
    task, views = create_task(Config(task={"name": "regression"})), ("identity", "vflip", "rot90")
    settings = Inference(tta=views, average=average, batch_size=4)
    found, spread = predict(model, task, store_of(pixels), np.arange(7), settings, CPU)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        raw = np.stack([model(VIEWS[view](images)).logits.double().numpy() for view in views])
    numbers = raw * np.array([0.5, 2.0]) + np.array([3.0, -1.0])
    numbers = np.expm1(numbers) if log else numbers
    np.testing.assert_allclose(found, numbers.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(spread, numbers.std(0).mean(1), rtol=1e-3, atol=1e-5)
