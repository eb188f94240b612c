"""Optimisers, created with timm."""

from __future__ import annotations

import timm.optim
import torch
from torch import nn

from src.config import Train
from src.training.parameter_groups import parameter_groups

FUSED = ("adam", "adamw", "sgd")  # one kernel per step: much faster than a loop, on CPU too
MOMENTUM = 0.9  # default for SGD; timm's "sgd" uses Nesterov momentum


def create_optimizer(model: nn.Module, settings: Train) -> torch.optim.Optimizer:
    """Create timm's optimiser of that name over the model's parameter groups."""
    options = {"fused": True} if settings.optimizer in FUSED else {}
    if settings.optimizer == "sgd":
        options["momentum"] = settings.momentum or MOMENTUM
    return timm.optim.create_optimizer_v2(
        parameter_groups(model, settings), opt=settings.optimizer, lr=settings.lr, weight_decay=0.0, **options
    )
