"""A backbone's parameters by depth."""

from __future__ import annotations

from timm.models import group_parameters
from torch import nn

from src.config import UserError


def stages(backbone: nn.Module) -> list[list[str]]:
    """Names of the backbone's parameters, a list a stage, the shallowest (the stem) first, as timm groups
    them. A plain transformer has a stage a block. Raises `UserError` for the few families timm does not
    group."""
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise UserError(
            f"model.backbone: timm does not say which layers of {type(backbone).__name__} are how deep; "
            f"set train.freeze_stages to null, or take another backbone"
        )
    try:
        groups = group_parameters(backbone, matcher(coarse=True))
    except AssertionError:  # a family that has fine groups alone
        groups = group_parameters(backbone, matcher(coarse=False))
    return [groups[depth] for depth in sorted(groups)]
