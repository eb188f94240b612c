"""Builds the `Architecture` of an experiment from its config, images and outputs."""

from __future__ import annotations

from src.config import MARGINS, Config
from src.data.loaders import FoldData
from src.losses.margins import margin_scale
from src.models.architecture import Architecture
from src.models.backbone import input_statistics
from src.models.scale import TargetScale
from src.tasks.base import Task


def create_architecture(config: Config, task: Task, data: FoldData, scale: TargetScale) -> Architecture:
    """The network's parts by name, as stored with its weights; `scale` is the scale of the targets."""
    margin = config.train.name(task.name) in MARGINS
    mean, std = input_statistics(config.model, data.store.mean, data.store.std)
    return Architecture(
        backbone=config.model.backbone,
        n_outputs=len(data.outputs),
        image_size=config.data.image_size,
        mean=mean,
        std=std,
        drop_rate=config.model.drop_rate,
        drop_path_rate=config.model.drop_path_rate,
        target_mean=scale.mean,
        target_std=scale.std,
        target_log=scale.log,
        decoder=config.model.decoder if task.kind == "maps" else None,
        head="cosine" if margin else "linear",
        logit_scale=margin_scale(config.train.margin, len(data.outputs)) if margin else None,
        embedding=config.model.embedding if task.kind == "rankings" else None,
        pooling=config.model.pooling,
        neck=config.model.neck,
        dropout_samples=config.model.dropout_samples,
        ibn=config.model.ibn,
        parts=config.model.parts,
        stripes=config.model.stripes,
        subcenters=config.model.subcenters,
    )
