"""Parameter groups: the rate and the weight decay of every parameter that may ever move.

The head is all that is not the backbone: it keeps the peak rate. A layer of the backbone has
`train.backbone_lr` of it, times `train.layer_decay` for every layer between it and the head.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn

from src.config import Train, UserError

BACKBONE = "backbone."  # before the names of its parameters in a network
_HEAD = "the head"  # matches no layer of a backbone, so timm puts it on top of all


def parameter_groups(model: nn.Module, settings: Train) -> list[dict[str, Any]]:
    """The model's trainable parameters for an optimiser: a group a rate and weight decay, head and backbone
    apart (torch's fused SGD cannot step parameters that thaw beside others that already have momentum).

    Weight decay spares biases, norm layers (He et al. 2019, Bag of Tricks) and what the backbone's authors
    spared, such as position tables.
    """
    spared = [BACKBONE + name for name in getattr(model.backbone, "no_weight_decay", set)()]
    rates = backbone_rates(model.backbone, settings)
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = name.startswith(BACKBONE)
        rate = rates[name.removeprefix(BACKBONE)] if inside else 1.0
        plain = parameter.ndim <= 1 or name.endswith(".bias") or any(fnmatch(name, spare) for spare in spared)
        key = (inside, settings.lr * rate, 0.0 if plain else settings.weight_decay)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (_, rate, decay), parameters in groups.items()
    ]


def backbone_rates(backbone: nn.Module, settings: Train) -> dict[str, float]:
    """The share of the peak rate of each of the backbone's parameters.

    Discriminative rates (Howard, Ruder 2018, Universal Language Model Fine-tuning) and layer-wise decay
    (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT).
    """
    share = settings.backbone_lr or 1.0
    if settings.layer_decay is None:
        return {name: share for name, _ in backbone.named_parameters()}
    return {name: share * settings.layer_decay**layers for name, layers in layers_to_head(backbone).items()}


def layers_to_head(backbone: nn.Module) -> dict[str, int]:
    """How many layers each parameter lies below the head, by timm's groups: 1 for the last block, 0 for what
    timm counts as part of the head."""
    if not hasattr(backbone, "group_matcher"):
        raise UserError(
            f"train.layer_decay: timm does not say which layers of {type(backbone).__name__} are how deep; "
            f"set it to null, or take another model.backbone"
        )
    named = [(name, None) for name, _ in backbone.named_parameters()]
    level = group_with_matcher([*named, (_HEAD, None)], backbone.group_matcher(coarse=False), reverse=True)
    return {name: level[_HEAD] - level[name] for name, _ in named}
