"""A fold model's predictions: every view of every row, averaged in the rows' own order."""

from __future__ import annotations

import numpy as np
import torch

from src.config import Inference
from src.data.images import ImageStore
from src.data.loaders import evaluation_batches
from src.data.views import VIEWS
from src.models.build import Network
from src.tasks.base import Task


@torch.inference_mode()
def predict(
    model: Network,
    task: Task,
    store: ImageStore,
    positions: np.ndarray,
    settings: Inference,
    device: torch.device,
    report=lambda rows: None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predictions (N, C) float32 for the images at `positions`, none padded, none dropped; and how far the
    views of each are apart (N,), their standard deviation, or None for a single view.

    Views are averaged as probabilities or as logits (`inference.average`): the two can differ a lot, so
    decide on OOF.
    """
    model = model.to(device).eval()
    result = np.empty((len(positions), model.architecture.n_outputs), np.float32)
    spread = np.empty(len(positions), np.float32)
    start = 0
    for images in evaluation_batches(store, positions, settings.batch_size):
        images = images.to(device)
        seen = torch.stack([model.scale.decode(model(VIEWS[view](images)).logits) for view in settings.tta])
        said = torch.stack([task.activate(raw) for raw in seen])  # (views, B, C)
        average = task.activate(seen.float().mean(0)) if settings.average == "logit" else said.mean(0)
        rows = slice(start, start + len(images))
        result[rows] = average.cpu().numpy()
        spread[rows] = said.std(0, correction=0).mean(1).cpu().numpy()
        start += len(images)
        report(len(images))
    return result, spread if len(settings.tta) > 1 else None
