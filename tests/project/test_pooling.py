"""Pooling: numbers by other libraries and closed forms, and maps from backbones of every layout."""

from __future__ import annotations

import pytest
import timm
import torch
from networks import architecture, images
from timm.layers import SelectAdaptivePool2d
from torch.autograd import gradcheck

from src.config import UserError
from src.models.build import create_model
from src.models.features import FeatureLayout
from src.models.pooling import POOLINGS, GeM


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# --- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "theirs"), [("avg", "avg"), ("max", "max"), ("dual", "catavgmax")])
def test_average_maximum_and_both_are_timms(name, theirs):
    x = maps(3, 7, 5, 6)
    pooling = POOLINGS[name]()
    torch.testing.assert_close(pooling(x), SelectAdaptivePool2d(pool_type=theirs, flatten=True)(x))
    assert pooling(x).shape == (3, 7 * pooling.times)


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
def test_gem_is_the_generalised_mean(p):
    x = maps(2, 4, 3, 5, dtype=torch.float64).abs() + 0.01
    expected = (x**p).mean((2, 3)) ** (1 / p)
    torch.testing.assert_close(GeM(p)(x), expected, rtol=1e-6, atol=1e-9)


def test_gem_goes_from_the_mean_to_the_maximum():
    x = maps(2, 4, 6, 6).abs()
    torch.testing.assert_close(GeM(1.0)(x), x.mean((2, 3)))
    torch.testing.assert_close(GeM(3000.0)(x), x.amax((2, 3)), rtol=2e-3, atol=0)


def test_gem_starts_at_three_and_learns_its_exponent():
    pooling = GeM()
    assert pooling.p.tolist() == [3.0]
    x = maps(2, 4, 3, 3).abs()
    pooling(x).sum().backward()
    assert pooling.p.grad.item() > 0  # a larger exponent is a larger mean


def test_the_gradient_of_gem_is_right_for_maps_and_exponent():
    x = (maps(2, 3, 2, 3, dtype=torch.float64).abs() + 0.05).requires_grad_()

    def pooled(x, p):
        pooling = GeM().double()
        del pooling.p
        pooling.p = p
        return pooling(x)

    assert gradcheck(pooled, (x, torch.tensor([2.7], dtype=torch.float64, requires_grad=True)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gem_holds_what_half_precision_holds(dtype):
    x = torch.tensor([50.0, 60000.0, 0.0, -7.0, 1e-7], dtype=dtype).view(1, 5, 1, 1).expand(-1, -1, 2, 2)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = GeM()(x)
    assert found.dtype == torch.float32
    expected = torch.tensor([50.0, 60000.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(found[0], expected, rtol=4e-3, atol=2e-6)  # 60000 as bfloat16 has it
    found.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_a_map_of_nothing_has_finite_gradients():
    x, pooling = torch.zeros(2, 3, 4, 4, requires_grad=True), GeM(9.0)
    pooling(x).sum().backward()
    assert torch.isfinite(pooling.p.grad).all()
    assert torch.isfinite(x.grad).all()


# --- backbones ----------------------------------------------------------------------------------------------

LAYOUTS = [  # a backbone of each, and how its features come
    ("test_resnet", "NCHW"),
    ("test_convnext", "NCHW"),
    ("mobilenetv3_small_050", "NCHW"),  # a wider layer after pooling
    ("test_mambaout", "NHWC"),
    ("test_vit", "tokens"),  # with a class token
    ("test_vit_relpos", "tokens"),  # without
    ("test_vit4", "tokens"),
]


@pytest.mark.parametrize(
    ("backbone", "layout", "pooling"),
    [
        *[(*entry, pooling) for entry in LAYOUTS for pooling in POOLINGS],
        ("swin_tiny_patch4_window7_224", "NHWC", "gem"),
    ],
)
def test_features_of_any_layout_are_pooled(backbone, layout, pooling):
    size = 64
    model = create_model(architecture(backbone, size, pooling=pooling)).eval()
    assert model.features.layout == layout
    length = model.backbone.head_hidden_size * (2 if pooling == "dual" else 1)
    with torch.no_grad():
        output = model(images(size))
    assert output.embedding.shape == (3, length)
    assert output.logits.shape == (3, 5)
    model.train()(images(size)).logits.sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None and "cls_token" not in n] == []


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("test_resnet", 64),
        ("test_convnext", 64),  # a norm after pooling, which stays
        ("test_efficientnet", 64),
        ("mobilenetv3_small_050", 64),
        ("swin_tiny_patch4_window7_224", 64),
        ("test_mambaout", 64),
        ("test_vit_relpos", 64),
    ],
)
def test_the_average_is_what_a_backbone_that_averages_does_itself(backbone, size):
    model = create_model(architecture(backbone, size, pooling="avg")).eval()
    x = model.normalize(images(size))
    with torch.no_grad():
        torch.testing.assert_close(model(images(size)).embedding, model.backbone(x), rtol=1e-4, atol=1e-5)


def test_the_patch_tokens_are_pooled_and_the_class_token_is_not():
    model = create_model(architecture("test_vit", 64, pooling="max")).eval()
    with torch.no_grad():
        tokens = model.backbone.forward_features(model.normalize(images(64)))  # (B, 1 + 16, 64)
        embedding = model(images(64)).embedding
    assert tokens.shape[1] == 17
    torch.testing.assert_close(embedding, tokens[:, 1:].amax(1))


def test_registers_are_no_places_either():
    model = create_model(architecture("vit_small_patch14_reg4_dinov2", 56, pooling="avg")).eval()
    assert (model.features.prefix, model.features.rows) == (5, 4)
    with torch.no_grad():
        tokens = model.backbone.forward_features(model.normalize(images(56)))
        torch.testing.assert_close(model(images(56)).embedding, tokens[:, 5:].mean(1))


@pytest.mark.parametrize("backbone", ["test_resnet", "swin_tiny_patch4_window7_224", "test_vit"])
def test_maps_have_their_rows_where_the_image_has_them(backbone):
    """A bright lower half makes the lower rows differ from those of a dark image, more than the upper ones
    do."""
    size = 128
    model = create_model(architecture(backbone, size, pooling="avg")).eval()
    dark = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    half = dark.clone()
    half[:, :, size // 2 :] = 255
    with torch.no_grad():
        dark, half = (
            model.features.maps(model.backbone.forward_features(model.normalize(x)), (size, size))
            for x in (dark, half)
        )
    apart = (half - dark).abs().mean((0, 1, 3))  # (rows,)
    assert len(apart) == size // model.features.stride
    assert apart[-1] > 1.2 * apart[0]


def test_dual_pooling_gives_each_half_what_the_family_does_after_pooling():
    model = create_model(architecture("test_convnext", 64, pooling="dual")).eval()
    with torch.no_grad():
        maps = model.backbone.forward_features(model.normalize(images(64)))
        norm = model.backbone.head.norm
        both = [norm(x[:, :, None, None]).flatten(1) for x in (maps.mean((2, 3)), maps.amax((2, 3)))]
        torch.testing.assert_close(model(images(64)).embedding, torch.cat(both, 1))


def test_a_size_that_the_network_was_not_built_for_is_pooled_too():
    model = create_model(architecture("test_resnet", 64, pooling="gem")).eval()
    with torch.no_grad():
        assert model(images(96)).embedding.shape == (3, 96)


@pytest.mark.parametrize(
    ("backbone", "why"),
    [
        ("crossvit_tiny_240", "they are a list, not one map"),
        ("pit_ti_224", "1 tokens are no grid of 7 x 7"),
    ],
)
def test_a_backbone_whose_features_cannot_be_pooled_is_refused_with_the_reason(backbone, why):
    size = 240 if "240" in backbone else 224
    create_model(architecture(backbone, size))  # its own pooling is no trouble
    with pytest.raises(UserError) as caught:
        create_model(architecture(backbone, size, pooling="avg"))
    assert str(caught.value) == (
        f"model.pooling: the features of {backbone} cannot be pooled ({why}); set model.pooling=null, or "
        f"another model.backbone"
    )
    with pytest.raises(UserError, match=r"^model.parts: .* set model.parts=null"):
        create_model(architecture(backbone, size, parts="pcb", stripes=2))


def test_without_pooling_nothing_is_looked_for():
    model = create_model(architecture())
    assert (model.features, model.pooling, model.parts) == (None, None, None)


def test_a_layout_is_read_from_one_image_alone():
    backbone = timm.create_model("test_vit", num_classes=0, img_size=48).eval()
    raw = torch.zeros(1, 10, 64)
    found = FeatureLayout.of(backbone, raw, 48, "model.pooling", "test_vit")
    assert (found.layout, found.prefix, found.rows, found.channels, found.length) == ("tokens", 1, 3, 64, 64)
    tokens = torch.arange(10.0).view(1, 10, 1).expand(2, -1, 64)
    assert found.maps(tokens, (48, 48))[0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
