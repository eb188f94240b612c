"""A fold model's predictions: every view of every row, averaged in the rows' own order."""

from __future__ import annotations

import numpy as np
import torch

from src.config import Inference
from src.data.images import ImageStore
from src.data.loaders import evaluation_batches
from src.data.views import VIEWS
from src.models.build import Classifier
from src.tasks.base import Task


@torch.inference_mode()
def predict(
    model: Classifier,
    task: Task,
    store: ImageStore,
    positions: np.ndarray,
    settings: Inference,
    device: torch.device,
    report=lambda rows: None,
) -> np.ndarray:
    """Predictions (N, C) float32 for the images at `positions`, none padded, none dropped.

    Views are averaged as probabilities or as logits (`inference.average`): the two can differ a lot, so
    decide on OOF.
    """
    model = model.to(device).eval()
    result = np.empty((len(positions), model.architecture.n_outputs), np.float32)
    start = 0
    for images in evaluation_batches(store, positions, settings.batch_size):
        images = images.to(device)
        seen = [model(VIEWS[view](images)).logits for view in settings.tta]  # each (B, C)
        if settings.average == "logit":
            average = task.activate(torch.stack(seen).float().mean(0))
        else:
            average = torch.stack([task.activate(logits) for logits in seen]).mean(0)
        result[start : start + len(images)] = average.cpu().numpy()
        start += len(images)
        report(len(images))
    return result
