"""Instance norms inside ResNets: where they come, what stays of trained weights, and which networks have
none."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from networks import architecture, images, shaken, trained
from torch import nn
from torch.autograd import gradcheck

from src.config import UserError
from src.models.build import create_model
from src.models.ibn import IBN
from src.models.weights import load_model, read_checkpoint, save_model


def ibns(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, IBN)]


def instance_norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.InstanceNorm2d)]


def batch_norm(channels: int, seed: int = 0) -> nn.BatchNorm2d:
    norm, generator = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.2), torch.Generator().manual_seed(seed)
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return norm


# --- the layer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [8, 7])
@pytest.mark.parametrize("training", [True, False])
def test_half_the_channels_are_normalised_by_image_and_the_rest_by_batch(channels, training):
    norm = batch_norm(channels)
    layer = IBN.of(norm).train(training)
    x = torch.randn(4, channels, 5, 6, generator=torch.Generator().manual_seed(1))
    half = channels // 2
    first = F.instance_norm(x[:, :half], weight=norm.weight[:half], bias=norm.bias[:half])
    second = norm.train(training)(x)[:, half:]
    torch.testing.assert_close(layer(x), torch.cat([first, second], 1))
    torch.testing.assert_close(layer.BN.running_mean, norm.running_mean[half:])


def test_its_gradient_is_right():
    layer = IBN(4).double().train()
    x = torch.randn(3, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(layer, (x,))


def test_an_images_own_contrast_and_tint_leave_the_normalised_half():
    layer = IBN(6).eval()
    x = torch.randn(2, 6, 5, 5)
    with torch.no_grad():
        plain, tinted = layer(x), layer(3 * x + 2)
    torch.testing.assert_close(plain[:, :3], tinted[:, :3], rtol=1e-3, atol=1e-4)
    assert (plain[:, 3:] - tinted[:, 3:]).abs().mean() > 1


# --- where they come ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["resnet18", "seresnet50", "resnext50_32x4d", "resnet18d", "resnest14d"])
def test_a_changes_the_first_norm_of_every_block_of_three_stages(backbone):
    model = create_model(architecture(backbone, 64, ibn="a")).eval()
    plain = timm.create_model(backbone, num_classes=0)
    blocks = [
        f"layer{stage}.{block}.bn1"
        for stage in (1, 2, 3)
        for block in range(len(getattr(plain, f"layer{stage}")))
    ]
    assert ibns(model.backbone) == blocks
    assert instance_norms(model.backbone) == [f"{name}.IN" for name in blocks]


@pytest.mark.parametrize(("backbone", "act"), [("resnet18", "act2"), ("resnet26", "act3")])
def test_b_adds_a_norm_after_the_stem_and_after_the_last_sum_of_two_stages(backbone, act):
    model = create_model(architecture(backbone, 64, ibn="b")).eval()
    assert instance_norms(model.backbone) == ["bn1", f"layer1.1.{act}.IN", f"layer2.1.{act}.IN"]
    seen = {}
    model.backbone.layer1[-1].register_forward_hook(lambda *it: seen.update(out=it[2]))
    getattr(model.backbone.layer1[-1], act).register_forward_pre_hook(
        lambda *it: seen.update(summed=it[1][0])
    )
    with torch.no_grad():
        model(images(64))
    torch.testing.assert_close(seen["out"], F.instance_norm(seen["summed"]).relu())


FAMILIES = ["test_convnext", "test_vit", "test_efficientnet", "resnetv2_18", "resnet50_gn"]


@pytest.mark.parametrize(
    ("backbone", "kind"),
    [*[(name, kind) for name in FAMILIES for kind in "ab"], ("skresnet18", "a"), ("res2net50_26w_4s", "b")],
)
def test_another_family_is_refused(backbone, kind):
    with pytest.raises(UserError) as caught:
        create_model(architecture(backbone, 64, ibn=kind))
    assert str(caught.value) == (
        f"model.ibn={kind} changes the batch norms of a ResNet's blocks, which {backbone} has not; set "
        f"model.ibn=null, or a backbone such as resnet50, resnext50_32x4d, seresnet50"
    )


def test_a_size_with_one_place_left_to_normalise_over_is_refused():
    with pytest.raises(UserError, match=r"^model.backbone: test_resnet cannot be built for 8 px \(Expected"):
        create_model(architecture("test_resnet", 8, ibn="a"))


def test_a_network_with_a_decoder_has_them_too():
    model = create_model(architecture("test_resnet", 64, ibn="a", decoder="fpn"))
    assert len(ibns(model)) == 3
    assert model(images(64)).logits.shape == (3, 5, 64, 64)


# --- weights ------------------------------------------------------------------------------------------------


def test_every_tensor_of_a_trained_network_stays():
    source = trained("resnet18")
    theirs = source.state_dict()
    for kind, gone in (("a", 0), ("b", 3)):
        ours = create_model(architecture("resnet18", 64, ibn=kind), state=theirs).backbone.state_dict()
        whole = {name: value for name, value in ours.items() if ".IN." not in name and ".BN." not in name}
        assert all(torch.equal(value, theirs[name]) for name, value in whole.items())
        for block in {name.split(".IN.")[0] for name in ours if ".bn1.IN." in name}:
            for part in ("weight", "bias"):
                both = torch.cat([ours[f"{block}.IN.{part}"], ours[f"{block}.BN.{part}"]])
                assert torch.equal(both, theirs[f"{block}.{part}"])
            half = len(theirs[f"{block}.bias"]) // 2
            for part in ("running_mean", "running_var"):
                assert torch.equal(ours[f"{block}.BN.{part}"], theirs[f"{block}.{part}"][half:])
        lost = {name for name in theirs if name not in ours and not name.startswith("fc.")}
        assert len([n for n in lost if not n.startswith("layer")]) == gone  # the stem's statistics


@pytest.mark.parametrize("kind", ["a", "b"])
def test_a_run_with_them_can_be_started_from(tmp_path, kind):
    earlier = shaken(create_model(architecture("resnet18", 64, ibn=kind)))
    save_model(tmp_path / "m.safetensors", earlier.architecture, earlier.state_dict())
    state = read_checkpoint(tmp_path / "m.safetensors")
    model = create_model(architecture("resnet18", 64, outputs=9, ibn=kind), state=state)
    theirs = earlier.backbone.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.backbone.state_dict().items())
    with pytest.raises(UserError, match=r"tensors of resnet18 are in the file"):
        create_model(architecture("resnet18", 64), state=state)
    loaded = load_model(tmp_path / "m.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(images(64)).logits, earlier.eval()(images(64)).logits)


def test_the_authors_names_of_ibn_a_are_ours():
    """As https://github.com/XingangPan/IBN-Net names its tensors."""
    names = set(create_model(architecture("resnet50", 64, ibn="a")).backbone.state_dict())
    assert {
        "layer1.0.bn1.IN.weight",
        "layer1.0.bn1.IN.bias",
        "layer1.0.bn1.BN.running_var",
        "layer3.5.bn1.BN.weight",
        "layer4.0.bn1.weight",
    } <= names
    shapes = create_model(architecture("resnet50", 64, ibn="a")).backbone.state_dict()
    assert shapes["layer2.0.bn1.IN.weight"].shape == shapes["layer2.0.bn1.BN.weight"].shape == (64,)
