"""Names that are checked before anything heavy is imported: backbones and TTA views."""

from __future__ import annotations

import numpy as np
import pytest

from src.config import UserError
from src.data.views import VIEWS, check_views
from src.models.names import check_backbone, known_backbones


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


# --- views --------------------------------------------------------------------------------------------------

BACK = {
    "identity": "identity",
    "hflip": "hflip",
    "vflip": "vflip",
    "rot90": "rot270",
    "rot180": "rot180",
    "rot270": "rot90",
    "transpose": "transpose",
}
SHIFTS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def batch(height: int = 40, width: int = 40):
    import torch

    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))  # (B, C, H, W)


def test_every_view_is_tested_below():
    assert set(VIEWS) == set(BACK) | set(SHIFTS)


@pytest.mark.parametrize("name", BACK)
def test_a_view_and_the_way_back_give_the_same_image_at_any_shape(name):
    for image in (batch(), batch(24, 40)):
        assert VIEWS[BACK[name]](VIEWS[name](image)).equal(image)
        assert VIEWS[name](image).equal(image) == (name == "identity")


def test_views_turn_the_way_that_their_names_say():
    import torch

    image = batch()
    expected = {
        "hflip": np.flip(image.numpy(), -1),
        "vflip": np.flip(image.numpy(), -2),
        "rot90": np.rot90(image.numpy(), 1, (-2, -1)),
        "rot180": np.rot90(image.numpy(), 2, (-2, -1)),
        "rot270": np.rot90(image.numpy(), 3, (-2, -1)),
        "transpose": np.swapaxes(image.numpy(), -2, -1),
    }
    for name, pixels in expected.items():
        assert VIEWS[name](image).equal(torch.from_numpy(pixels.copy())), name


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize(("side", "step"), [(96, 3), (64, 2), (32, 1), (8, 1)])
def test_a_shift_moves_by_a_32nd_and_repeats_the_edge(name, side, step):
    image = batch(side, side).numpy()
    down, right = (step * direction for direction in SHIFTS[name])
    moved = VIEWS[name](batch(side, side)).numpy()
    around = np.pad(image, ((0, 0), (0, 0), (step, step), (step, step)), mode="edge")
    expected = around[..., step - down : step - down + side, step - right : step - right + side]
    assert np.array_equal(moved, expected)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_leaves_its_input_alone(name):
    image = batch()
    VIEWS[name](image)
    assert image.equal(batch())


def test_an_unknown_view_is_answered_with_all_that_there_are():
    with pytest.raises(UserError) as caught:
        check_views(("identity", "flip"))
    assert str(caught.value) == f"inference.tta: there is no view 'flip'; known are {', '.join(VIEWS)}"


def test_a_view_that_stands_twice_is_refused_for_it_would_count_twice():
    with pytest.raises(UserError, match="'hflip' stands twice; a view counts once"):
        check_views(("hflip", "identity", "hflip"))
    check_views(tuple(VIEWS))
