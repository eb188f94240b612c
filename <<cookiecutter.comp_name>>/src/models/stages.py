"""A backbone from shallow to deep, for fine-tuning that treats its depths differently."""

from __future__ import annotations

from timm.models import group_parameters
from torch import nn


def stages(backbone: nn.Module) -> list[list[str]]:
    """The names of a timm backbone's parameters, a list a stage, the shallowest (the stem) first; every
    parameter once.

    By timm's own `group_matcher`; a plain transformer has a stage a block. A family without one goes by the
    stages that `feature_info` names, the stem with the first of them.
    """
    names = [name for name, _ in backbone.named_parameters()]
    matcher = getattr(backbone, "group_matcher", None)
    found = _by_feature_info(backbone, names) if matcher is None else _by_groups(backbone, matcher)
    seen = {name for group in found for name in group}
    rest = [name for name in names if name not in seen]  # of no depth for timm
    if rest:
        found = [*found[:-1], [*(found[-1] if found else []), *rest]]
    return [group for group in found if group]


def _by_groups(backbone: nn.Module, matcher) -> list[list[str]]:
    try:
        groups = group_parameters(backbone, matcher(coarse=True))
    except AssertionError:  # a family that has fine groups alone
        groups = group_parameters(backbone, matcher(coarse=False))
    return [groups[depth] for depth in sorted(groups)]


def _by_feature_info(backbone: nn.Module, names: list[str]) -> list[list[str]]:
    """Parameters in their order; a new depth begins with each stage, the first one with what comes before
    it."""
    levels = [level["module"] + "." for level in getattr(backbone, "feature_info", [])]
    found: list[list[str]] = [[]]
    depth = 0
    for name in names:
        own = next((i for i, level in enumerate(levels) if name.startswith(level)), depth)
        while depth < own:
            depth += 1
            found.append([])
        found[depth].append(name)
    return found
