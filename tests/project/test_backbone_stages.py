"""Backbones from shallow to deep: every parameter once, in the order that an image meets them."""

from __future__ import annotations

import pytest
import timm
import torch
from networks import architecture
from torch import nn

from src.models.build import create_model
from src.models.stages import stages


def prefixes(groups: list[list[str]], parts: int) -> list[set[str]]:
    """The first `parts` words of each group's names."""
    return [{".".join(name.split(".")[:parts]) for name in group} for group in groups]


BACKBONES = {
    "resnet18": 5,  # the stem and four stages
    "efficientnet_b0": 8,
    "mobilenetv2_100": 8,
    "convnext_tiny": 6,  # its last norm too
    "vit_tiny_patch16_224": 13,  # patches and twelve blocks
    "swin_tiny_patch4_window7_224": 6,
    "caformer_s18": 4,  # a family for which timm has no groups: its stages
    "pit_ti_224": 3,
    "csatv2": 5,
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_has_one_depth(backbone):
    model = timm.create_model(backbone, num_classes=0)
    groups = stages(model)
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert all(groups)
    assert abs(len(groups) - BACKBONES[backbone]) <= 1  # timm may count a final norm, from version to version


def test_a_resnet_goes_from_its_stem_stage_by_stage():
    groups = prefixes(stages(timm.create_model("resnet18", num_classes=0)), 1)
    assert groups == [{"conv1", "bn1"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}]


def test_a_transformer_goes_from_its_patches_block_by_block():
    groups = prefixes(stages(timm.create_model("vit_tiny_patch16_224", num_classes=0)), 2)
    assert groups[0] == {"cls_token", "pos_embed", "patch_embed.proj"}
    assert groups[1:12] == [{f"blocks.{i}"} for i in range(11)]
    assert {"blocks.11", "norm.weight", "norm.bias"} <= set().union(*groups[12:])


@pytest.mark.parametrize("backbone", ["swin_tiny_patch4_window7_224", "convnext_tiny", "efficientnet_b0"])
def test_what_an_image_meets_first_comes_first(backbone):
    model = timm.create_model(backbone, num_classes=0).eval()
    met: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(lambda *_, name=name: met.append(f"{name}.weight"))
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    depth = {name: number for number, group in enumerate(stages(model)) for name in group}
    depths = [depth[name] for name in dict.fromkeys(met)]
    assert depths == sorted(depths)


def test_norms_that_were_changed_keep_their_depth():
    plain = stages(timm.create_model("resnet18", num_classes=0))
    changed = stages(create_model(architecture("resnet18", 64, ibn="a")).backbone)
    assert prefixes(changed, 2) == prefixes(plain, 2)
    assert "layer1.0.bn1.IN.weight" in changed[1]
