"""Networks with a decoder: maps at the image's own size from any backbone, and the backbone's own weights."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from src.config import UserError
from src.losses.segmentation import bce_dice, ce_dice
from src.models.build import Architecture, create_model
from src.models.output import exclusive_probabilities
from src.models.segmentation import FPN, FeatureLevels, UNet, create_decoder
from src.models.weights import read_checkpoint, save_model

DECODERS = ["unet", "fpn"]


def architecture(
    backbone: str = "test_resnet", size: int = 32, outputs: int = 2, decoder: str = "unet", **more
) -> Architecture:
    return Architecture(backbone, outputs, size, (0.2, 0.5, 0.7), (0.1, 0.2, 0.3), decoder=decoder, **more)


def images(*size: int, n: int = 2, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """(n, channels, H, W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=generator)


def pyramid(channels: list[int], *size: int) -> list[torch.Tensor]:
    """Maps of one image at strides 2, 4, 8, ..., rounded up as strided convolutions do."""
    generator, maps = torch.Generator().manual_seed(0), []
    for level, count in enumerate(channels, start=1):
        sides = [-(-side // 2**level) for side in size]
        maps.append(torch.randn(2, count, *sides, generator=generator))
    return maps


# --- what goes in and comes out -----------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("test_resnet", 32),
        ("test_resnet", 8),
        ("test_efficientnet", 37),
        ("test_convnext", 41),  # its finest map has stride 4
        ("test_nfnet", 33),
        ("test_vit", 48),  # maps of one stride alone
        ("swin_tiny_patch4_window7_224", 40),
        ("mobilenetv3_small_050", 33),  # layers after the deepest map
        ("efficientvit_m0", 64),  # its finest map has stride 16
    ],
)
def test_a_backbone_of_any_family_gives_maps_at_the_images_own_size(backbone, size, decoder):
    model = create_model(architecture(backbone, size, decoder=decoder))
    for network in (model.train(), model.eval()):
        with torch.no_grad():
            output = network(images(size, size))
        assert output.logits.shape == (2, 2, size, size)
        assert output.logits.dtype == torch.float32
        assert output.embedding.shape == (2, model.backbone.feature_info[-1]["num_chs"])


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("size", [(37, 53), (64, 32), (33, 96)])
def test_a_convolutional_network_takes_sizes_that_it_was_not_built_for(backbone, size, decoder):
    model = create_model(architecture(backbone, 64, decoder=decoder)).eval()
    with torch.no_grad():
        assert model(images(*size)).logits.shape == (2, 2, *size)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("backbone", "size"), [("test_vit", 40), ("test_convnext", 16)])
def test_a_size_that_a_backbone_cannot_take_is_refused_in_one_sentence(backbone, size, decoder):
    with pytest.raises(UserError) as caught:
        create_model(architecture(backbone, size, decoder=decoder))
    message = str(caught.value)
    assert message.startswith(f"model.backbone: {backbone} cannot be built for {size} px (")
    assert "\n" not in message


@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_are_enlarged_in_float32_under_autocast(decoder):
    model = create_model(architecture(decoder=decoder)).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(images(32, 32)).logits
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16()).float().mean() > 0.3  # between two pixels bfloat16 has no value


def test_images_may_have_any_number_of_channels():
    model = create_model(Architecture("test_resnet", 1, 32, (0.5,) * 5, (0.2,) * 5, decoder="fpn"))
    assert model(images(32, 32, channels=5)).logits.shape == (2, 1, 32, 32)


def test_a_decoder_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="no decoder is called 'linknet'"):
        create_decoder("linknet", [8, 16], [2, 4], 1)


# --- the backbone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_convnext", "mobilenetv2_050"])
def test_a_decoder_reads_the_maps_that_timm_calls_the_backbones_features(backbone):
    model = create_model(architecture(backbone, 64)).eval()
    theirs = timm.create_model(backbone, features_only=True).eval()  # has other names, in the same order
    ours = model.backbone.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours, strict=False)))
    x = model.normalize(images(64, 96))
    with torch.no_grad():
        ours = model.levels.read(model.backbone, x)
        expected = theirs(x)
        embedding = model(images(64, 96)).embedding
    assert len(ours) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    assert model.levels.strides == theirs.feature_info.reduction()
    torch.testing.assert_close(embedding, F.adaptive_avg_pool2d(expected[-1], 1).flatten(1))


def test_a_plain_transformer_lends_three_of_its_depths_the_shallower_enlarged():
    backbone = timm.create_model("test_vit", num_classes=0, img_size=48).eval()
    levels = FeatureLevels.of(backbone)
    assert (levels.indices, levels.strides) == ([1, 3, 5], [4, 8, 16])
    x = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = levels.read(backbone, x)
        depths = backbone.forward_intermediates(x, intermediates_only=True)
    assert [tuple(m.shape) for m in maps] == [(2, 64, 12, 12), (2, 64, 6, 6), (2, 64, 3, 3)]
    assert torch.equal(maps[2], depths[5])
    torch.testing.assert_close(maps[1], F.interpolate(depths[3], size=(6, 6), mode="bilinear"))
    torch.testing.assert_close(maps[0], F.interpolate(depths[1], size=(12, 12), mode="bilinear"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_convnext", "mobilenetv2_050"])
def test_weights_from_elsewhere_fill_every_tensor_of_the_encoder(tmp_path, backbone, suffix):
    source = timm.create_model(backbone, num_classes=17)
    generator = torch.Generator().manual_seed(1)
    for tensor in source.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    path = tmp_path / f"theirs{suffix}"
    if suffix == ".pth":
        torch.save(source.state_dict(), path)
    else:
        save_model(path, architecture(backbone), source.state_dict())
    model = create_model(architecture(backbone, 64), state=read_checkpoint(path))
    theirs = source.state_dict()
    ours = model.backbone.state_dict()
    assert {name.split(".")[0] for name in theirs.keys() - ours.keys()} <= {"fc", "classifier", "head"}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize(("first", "then"), [(None, "unet"), ("unet", "fpn"), ("fpn", None)])
def test_a_run_of_one_kind_can_be_started_from_a_run_of_another(tmp_path, first, then):
    name = "mobilenetv3_small_050"  # whose last layers classify alone
    earlier = create_model(architecture(name, decoder=first))
    save_model(tmp_path / "m.safetensors", earlier.architecture, earlier.state_dict())
    model = create_model(architecture(name, decoder=then), state=read_checkpoint(tmp_path / "m.safetensors"))
    theirs = earlier.backbone.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.backbone.state_dict().items())


def test_weights_of_another_architecture_are_refused_here_too():
    state = timm.create_model("test_efficientnet").state_dict()
    with pytest.raises(
        UserError, match=r"^model.weights: \d+ of the 75 tensors of test_resnet are in the file"
    ):
        create_model(architecture(), state=state)


# --- the decoders -------------------------------------------------------------------------------------------


def test_a_u_net_joins_each_finer_map_with_what_lies_below_it_enlarged():
    torch.manual_seed(0)
    decoder = create_decoder("unet", [3, 5, 7], [2, 4, 8], 2).eval()
    fine, middle, deep = maps = pyramid([3, 5, 7], 37, 53)
    with torch.no_grad():
        x = deep
        for block, skip in zip(decoder.blocks, (middle, fine), strict=True):
            rows = torch.arange(skip.shape[2]) * x.shape[2] // skip.shape[2]
            columns = torch.arange(skip.shape[3]) * x.shape[3] // skip.shape[3]
            x = torch.cat([x[:, :, rows][:, :, :, columns], skip], dim=1)
            for layer in block:  # batch norm starts as nothing but its epsilon
                x = F.relu(F.conv2d(x, layer[0].weight, padding=1) / (1 + 1e-5) ** 0.5)
        x = torch.einsum("oc,bchw->bohw", decoder.head.linear.weight[:, :, 0, 0], x)
        expected = F.interpolate(x, size=(37, 53), mode="bilinear", align_corners=False)
        torch.testing.assert_close(decoder(maps, (37, 53)), expected, rtol=1e-4, atol=1e-6)


def test_an_fpn_sums_its_levels_at_the_finest_of_stride_four_or_more():
    torch.manual_seed(0)
    decoder = create_decoder("fpn", [3, 5, 7, 9], [2, 4, 8, 16], 2).eval()
    maps = pyramid([3, 5, 7, 9], 37, 53)

    def normalised(layer, norm, x):
        return F.group_norm(F.conv2d(x, layer.weight, padding=layer.padding), 32)

    def to(x, level, mode):
        return F.interpolate(x, size=maps[level].shape[-2:], mode=mode)

    with torch.no_grad():
        deep = normalised(*decoder.laterals[2], maps[3])
        middle = normalised(*decoder.laterals[1], maps[2]) + to(deep, 2, "nearest")
        fine = normalised(*decoder.laterals[0], maps[1]) + to(middle, 1, "nearest")
        (a,), (b,), (c, d) = decoder.branches
        total = F.relu(normalised(a[0], a[1], fine))
        total = total + to(F.relu(normalised(b[0], b[1], middle)), 1, "bilinear")
        climbing = to(F.relu(normalised(c[0], c[1], deep)), 2, "bilinear")
        total = total + to(F.relu(normalised(d[0], d[1], climbing)), 1, "bilinear")
        x = torch.einsum("oc,bchw->bohw", decoder.head.linear.weight[:, :, 0, 0], total)
        expected = F.interpolate(x, size=(37, 53), mode="bilinear", align_corners=False)
        torch.testing.assert_close(decoder(maps, (37, 53)), expected, rtol=1e-4, atol=1e-6)
    changed = [maps[0] + 1, *maps[1:]]
    assert torch.equal(decoder(changed, (37, 53)), decoder(maps, (37, 53)))


def test_a_u_nets_blocks_halve_their_width_as_the_side_doubles():
    decoder = UNet([1, 1, 1, 1, 1, 1], 3)
    assert [block[-1][0].out_channels for block in decoder.blocks] == [256, 128, 64, 32, 16]


@pytest.mark.parametrize("decoder", [UNet([8, 16], 3, 0.25), FPN([8, 16], [4, 8], 3, 0.25)])
def test_whole_channels_are_dropped_before_the_last_layer_in_training_alone(decoder):
    ones = torch.ones(40, 100, 3, 3)
    kept = decoder.train().head.dropout(ones)
    assert kept.unique().tolist() == [0, pytest.approx(1 / 0.75)]
    assert (kept.amax((2, 3)) == kept.amin((2, 3))).all()
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    head = decoder.eval().head
    assert torch.equal(head.dropout(ones), ones)
    torch.nn.init.ones_(head.linear.weight)  # counts the channels it sees
    x = torch.ones(200, head.linear.in_channels, 1, 1)
    with torch.no_grad():
        assert (head(x, (1, 1)) == x.shape[1]).all()
        seen = head.train()(x, (1, 1)) / x.shape[1]
    assert seen.mean().item() == pytest.approx(1, abs=0.05)
    assert seen.std() > 0.02


@pytest.mark.parametrize("decoder", DECODERS)
def test_new_layers_start_with_the_variance_of_he_and_every_pixel_undecided(decoder):
    torch.manual_seed(0)
    new = create_decoder(decoder, [24, 40, 112, 320], [4, 8, 16, 32], 3)
    convolutions = [m for m in new.modules() if isinstance(m, torch.nn.Conv2d) and m is not new.head.linear]
    assert len(convolutions) >= 6
    for layer in convolutions:
        fan_out = layer.out_channels * layer.kernel_size[0] ** 2
        assert layer.weight.var().item() == pytest.approx(2 / fan_out, rel=0.1)
        assert layer.bias is None
    assert new.head.linear.bias.count_nonzero() == 0
    logits = create_model(architecture("resnet18", 64, decoder=decoder))(images(64, 64)).logits
    assert logits.std() > 0
    assert logits.abs().max() < 1


# --- learning -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
def test_gradients_are_finite_and_reach_the_whole_decoder_and_encoder(decoder):
    torch.manual_seed(0)
    model = create_model(architecture(size=64, decoder=decoder, drop_rate=0.2))
    targets = (torch.randn(2, 2, 64, 64) > 0).float()
    targets[:, :, :10] = torch.nan
    with torch.autocast("cpu", torch.bfloat16):
        loss = bce_dice(model(images(64, 64)).logits, targets, 0.5).mean()
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert [name for name, p in model.decoder.named_parameters() if p.grad.count_nonzero() == 0] == []
    assert model.backbone.conv1[0].weight.grad.count_nonzero() > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("decoder", DECODERS)
def test_in_evaluation_the_same_images_give_the_same_maps_whatever_is_beside_them(decoder):
    model = create_model(architecture(decoder=decoder, drop_rate=0.5)).eval()
    x = images(32, 32, n=4)
    with torch.no_grad():
        together = model(x).logits
        assert torch.equal(model(x).logits, together)
        alone = torch.cat([model(x[i : i + 1]).logits for i in range(4)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-6)


def overlapping(side: int) -> np.ndarray:
    """(2, 2, side, side): a disc and a band that may share pixels, on two images."""
    y, x = np.mgrid[:side, :side] / side
    discs = [(y - cy) ** 2 + (x - cx) ** 2 < 0.08 for cy, cx in ((0.4, 0.4), (0.6, 0.7))]
    bands = [abs(y - c) < 0.12 for c in (0.5, 0.25)]
    return np.stack([np.stack(pair) for pair in zip(discs, bands, strict=True)]).astype(np.float32)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("exclusive", [False, True], ids=["overlapping", "exclusive"])
def test_two_images_are_learnt_by_heart(decoder, exclusive):
    torch.manual_seed(0)
    masks = torch.from_numpy(overlapping(32))
    if exclusive:
        masks[:, 1] *= 1 - masks[:, 0]
    pixels = 60 + 120 * masks[:, 0] + 60 * masks[:, 1]  # what is where can be seen
    x = pixels[:, None].expand(-1, 3, -1, -1).to(torch.uint8)
    model = create_model(architecture(decoder=decoder))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss = ce_dice if exclusive else bce_dice
    for _ in range(80):
        optimizer.zero_grad()
        loss(model(x).logits, masks, 0.5).mean().backward()
        optimizer.step()
    with torch.no_grad():
        logits = model.eval()(x).logits
    found = (exclusive_probabilities(logits) if exclusive else logits.sigmoid()) > 0.5
    dice = 2 * (found * masks).sum((2, 3)) / (found.sum((2, 3)) + masks.sum((2, 3)))
    assert dice.min() > 0.95
