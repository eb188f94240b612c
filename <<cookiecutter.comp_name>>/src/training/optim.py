"""The optimiser: what the step is made of."""

from __future__ import annotations

import timm.optim
import torch
from torch import nn

from src.config import Train
from src.training.parameter_groups import parameter_groups

FUSED = ("adam", "adamw", "sgd")  # one kernel a step, far faster than a loop over parameters, on CPU too
MOMENTUM = 0.9  # of SGD; timm's sgd has Nesterov's look ahead


def create_optimizer(model: nn.Module, settings: Train) -> torch.optim.Optimizer:
    """timm's optimiser of that name, over the model's parameter groups."""
    options = {"fused": True} if settings.optimizer in FUSED else {}
    if settings.optimizer == "sgd":
        options["momentum"] = settings.momentum or MOMENTUM
    return timm.optim.create_optimizer_v2(
        parameter_groups(model, settings), opt=settings.optimizer, lr=settings.lr, weight_decay=0.0, **options
    )
