"""Parameter groups: learning rate (discriminative, layer-wise decay) and weight decay of each parameter.

Everything outside the backbone is the head and trains at the peak rate. A backbone layer trains at
`train.backbone_lr` times that, times `train.layer_decay` for every layer between it and the head.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn

from src.config import Train, UserError

BACKBONE = "backbone."  # prefix of the backbone's parameter names in a network
_HEAD = "the head"  # matches no layer of a backbone, so timm places it above all of them


def parameter_groups(model: nn.Module, settings: Train) -> list[dict[str, Any]]:
    """The model's trainable parameters as optimiser groups, one per learning rate and weight decay.

    Head and backbone never share a group: PyTorch's fused SGD cannot step newly unfrozen parameters in one
    group with parameters that already have momentum. There is no weight decay for biases and norm layers (He
    et al. 2019, Bag of Tricks), nor for parameters in the backbone's `no_weight_decay`, such as position
    embeddings.
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
    """The learning rate of each backbone parameter, as a fraction of the peak rate.

    Discriminative learning rates (Howard, Ruder 2018, Universal Language Model Fine-tuning) and layer-wise
    decay (LLRD; Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT).
    """
    share = settings.backbone_lr or 1.0
    if settings.layer_decay is None:
        return {name: share for name, _ in backbone.named_parameters()}
    return {name: share * settings.layer_decay**layers for name, layers in layers_to_head(backbone).items()}


def layers_to_head(backbone: nn.Module) -> dict[str, int]:
    """Number of layers between each parameter and the head, by timm's `group_matcher`.

    It is 1 for the last block and 0 for what timm counts as part of the head. Raises `UserError` if the
    family has no `group_matcher`.
    """
    if not hasattr(backbone, "group_matcher"):
        raise UserError(
            f"train.layer_decay: timm does not say which layers of {type(backbone).__name__} are how deep; "
            f"set it to null, or take another model.backbone"
        )
    named = [(name, None) for name, _ in backbone.named_parameters()]
    level = group_with_matcher([*named, (_HEAD, None)], backbone.group_matcher(coarse=False), reverse=True)
    return {name: level[_HEAD] - level[name] for name, _ in named}
