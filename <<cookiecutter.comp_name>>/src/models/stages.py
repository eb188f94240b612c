"""Stages of a backbone, from shallow to deep, for fine-tuning that treats them differently."""

from __future__ import annotations

from timm.models import group_parameters
from torch import nn


def stages(backbone: nn.Module) -> list[list[str]]:
    """Names of a timm backbone's parameters per stage, the stem first; every parameter occurs once.

    Stages come from timm's `group_matcher`; each block of a plain transformer is a stage. Families without a
    matcher use the stages in `feature_info`, the stem being part of the first.
    """
    names = [name for name, _ in backbone.named_parameters()]
    matcher = getattr(backbone, "group_matcher", None)
    found = _by_feature_info(backbone, names) if matcher is None else _by_groups(backbone, matcher)
    seen = {name for group in found for name in group}
    rest = [name for name in names if name not in seen]  # parameters without a depth in timm
    if rest:
        found = [*found[:-1], [*(found[-1] if found else []), *rest]]
    return [group for group in found if group]


def _by_groups(backbone: nn.Module, matcher) -> list[list[str]]:
    """Parameter names per group of timm's `group_matcher`, in order of depth."""
    try:
        groups = group_parameters(backbone, matcher(coarse=True))
    except AssertionError:  # this family has only fine groups
        groups = group_parameters(backbone, matcher(coarse=False))
    return [groups[depth] for depth in sorted(groups)]


def _by_feature_info(backbone: nn.Module, names: list[str]) -> list[list[str]]:
    """Parameter names split where a stage of `feature_info` begins; the first includes what precedes it."""
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
