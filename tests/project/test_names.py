"""Names that are checked before anything heavy is imported: backbones."""

from __future__ import annotations

import pytest

from src.config import UserError
from src.models.names import check_backbone, known_backbones, unknown_on_kaggle


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet1", "resnet18"),
        ("Resnet50", "resnet50"),
        ("efficientnet-b0", "efficientnet_b0"),
        ("convnext_tinny", "convnext_tiny"),
        ("vit_base_patch16_244", "vit_base_patch16_224"),
        ("resnett50.a1_in1k", "resnet50"),
    ],
)
def test_a_backbone_that_timm_does_not_know_is_answered_with_near_names(name, near):
    with pytest.raises(UserError) as caught:
        check_backbone(name)
    message = str(caught.value)
    assert message.startswith(f"model.backbone: timm knows no {name!r}; near names are ")
    assert near in message.split("near names are ")[1].split(", ")


def test_a_backbone_like_no_other_is_answered_with_a_good_one():
    with pytest.raises(UserError, match="a good one is resnet18"):
        check_backbone("zzzzqqqq")


@pytest.mark.parametrize(
    "name", ["resnet18.a1_in1k", "vit_base_patch16_clip_224.openai", "convnext_tiny.fb_in22k_ft_in1k"]
)
def test_a_weights_tag_after_a_dot_is_timms_own_business(name):
    check_backbone(name)


def test_the_names_read_from_timms_source_are_those_that_timm_lists():
    import timm

    assert set(timm.list_models()) == set(known_backbones())


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("resnet18", True),
        ("test_resnet.r160_in1k", True),
        ("resnet50.a1_in1k", True),
        ("lcnetv2_small", False),
        ("lcnetv2_small.some_tag", False),
        ("resnet50.bamboo", False),  # a network that is there, under a tag that is not
    ],
)
def test_a_backbone_that_kaggles_timm_lacks_is_named_beside_one_that_it_has(name, known):
    why = unknown_on_kaggle(name)
    assert (why is None) is known
    if why is not None:
        assert name in why
        near = why.rpartition("such as ")[2].split(", ")
        assert near
        assert all(other in known_backbones() and unknown_on_kaggle(other) is None for other in near)


def test_without_a_list_nothing_is_known_of_kaggles_timm(tmp_path):
    assert unknown_on_kaggle("lcnetv2_small", tmp_path / "none.txt") is None
