"""Predictions of a fold model with test-time augmentation (TTA): every view of every row, averaged, in row
order. No row is padded or dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from src.config import Data, Inference, UserError
from src.data.images import ImageStore
from src.data.loaders import evaluation_batches
from src.data.masks import crop_inside
from src.data.views import views_of
from src.inference.average import rank_mean
from src.maps import Maps
from src.models.build import Network
from src.tasks.base import Task

_Report = Callable[[int], None]
NOT_FINITE = (
    "the model's predictions are not finite numbers; train it again with a lower train.lr or "
    "train.amp=off, or bundle it with kaggle.half=false where only half precision overflows"
)


@torch.inference_mode()
def predict(
    model: Network,
    task: Task,
    store: ImageStore,
    positions: np.ndarray,
    settings: Inference,
    device: torch.device,
    report: _Report = lambda rows: None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predictions (N, C) float32 for the images at `positions`, averaged over TTA views, and the spread of
    the views (N,), which is their standard deviation, or None if there is a single view.

    Views are averaged per image as probabilities or as logits (`inference.average`), or as ranks among all
    images, which keeps all views of all images in memory. The three can differ a lot, so choose by OOF score.
    """
    model, views = model.to(device).eval(), views_of(settings)
    result = np.empty((len(positions), model.architecture.n_outputs), np.float32)
    spread, all_said = np.empty(len(positions), np.float32), []
    start = 0
    for images in evaluation_batches(store, positions, settings.batch_size):
        images = images.to(device)
        seen = torch.stack([model.scale.decode(model(view.see(images)).logits) for view in views])
        said = torch.stack([task.activate(raw) for raw in seen])  # (views, B, C)
        rows = slice(start, start + len(images))
        if settings.average == "rank":
            all_said.append(said.cpu().numpy())
        else:
            mean = task.activate(seen.float().mean(0)) if settings.average == "logit" else said.mean(0)
            result[rows] = mean.cpu().numpy()
        spread[rows] = said.std(0, correction=0).mean(1).cpu().numpy()
        start += len(images)
        report(len(images))
    if all_said:
        result = rank_mean(np.concatenate(all_said, axis=1))
    return result, spread if len(views) > 1 else None


def predict_maps(
    model: Network,
    task: Task,
    store: ImageStore,
    positions: np.ndarray,
    sizes: list[tuple[int, int]],
    settings: Inference,
    data: Data,
    device: torch.device,
    report: _Report = lambda rows: None,
) -> Maps:
    """Probability maps of the images at `positions`, averaged over TTA views after each view is inverted,
    without the padding.

    They are stored at the model's input size; `sizes` are the file sizes, to which maps are resized when
    read.
    """
    model = model.to(device).eval()

    def images() -> Iterator[np.ndarray]:
        start = 0
        for batch in evaluation_batches(store, positions, settings.batch_size):
            levels = _levels(model, task, batch.to(device), settings)
            for maps, (height, width) in zip(levels, sizes[start : start + len(levels)], strict=True):
                yield crop_inside(maps, height, width, data)
            start += len(levels)
            report(len(levels))

    return Maps.of(images()).resized(sizes)


@torch.inference_mode()
def _levels(model: Network, task: Task, images: torch.Tensor, settings: Inference) -> np.ndarray:
    """Levels (B, C, S, S) uint8: the mean of the views' probabilities or logits, for each pixel over the
    views that contain it."""
    total: torch.Tensor | float = 0.0
    seen: torch.Tensor | float = 0.0  # (1, 1, S, S) number of views that contain the pixel
    for view in views_of(settings):
        raw = model(view.see(images)).logits.float()
        said = raw if settings.average == "logit" else task.activate(raw)
        total = total + view.undo(said, images.shape[-2:])
        seen = seen + view.undo(torch.ones_like(said[:1, :1]), images.shape[-2:])
    mean = total / seen
    if not mean.isfinite().all():
        raise UserError(NOT_FINITE)
    return task.compact(task.activate(mean) if settings.average == "logit" else mean)


@torch.inference_mode()
def embed(
    model: Network,
    store: ImageStore,
    positions: np.ndarray,
    settings: Inference,
    device: torch.device,
    report: _Report = lambda rows: None,
) -> np.ndarray:
    """Embeddings (N, D) of the images at `positions`: the sum over TTA views, normalised to length 1."""
    model, views, found = model.to(device).eval(), views_of(settings), []
    for images in evaluation_batches(store, positions, settings.batch_size):
        images = images.to(device)
        total = sum(model(view.see(images)).embedding.float() for view in views)
        if not total.isfinite().all():
            raise UserError(NOT_FINITE)
        found.append(torch.nn.functional.normalize(total, dim=1).cpu().numpy())
        report(len(images))
    return np.concatenate(found) if found else np.empty((0, 0), np.float32)
