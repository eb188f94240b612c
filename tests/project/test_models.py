"""Networks: what goes in and comes out, which sizes a backbone takes, and weights from elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from networks import MEAN, STD, architecture, images, shaken, trained
from safetensors import safe_open
from safetensors.torch import save_file

from src.config import Model, UserError
from src.models.backbone import input_statistics
from src.models.build import Architecture, create_model
from src.models.heads import CosineHead, LinearHead
from src.models.weights import load_model, read_checkpoint, save_model, strip

# --- what goes in and comes out -----------------------------------------------------------------------------


def test_pixels_are_normalised_by_the_mean_and_std_of_the_data_inside_the_network():
    model, x = create_model(architecture()), images()
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    expected = (x.numpy() / 255.0 - mean) / std
    assert model.normalize(x).dtype == torch.float32
    np.testing.assert_allclose(model.normalize(x).numpy(), expected, atol=2e-6)


def test_the_backbone_is_given_normalised_pixels():
    model = create_model(architecture()).eval()
    with torch.no_grad():
        assert torch.equal(model(images()).embedding, model.backbone(model.normalize(images())))


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("test_resnet", 33),
        ("test_resnet", 8),
        ("test_efficientnet", 37),
        ("test_convnext", 41),
        ("test_byobnet", 35),
        ("test_vit", 32),
        ("test_vit", 48),
        ("swin_tiny_patch4_window7_224", 40),
        ("test_maxvit", 64),
        ("densenet121", 33),  # knows no drop_path_rate, as vgg, hrnet, repvit, ghostnet and others
        ("efficientvit_m0", 64),  # knows none either, and has a fixed size
    ],
)
def test_a_backbone_of_any_family_takes_a_size_that_is_not_its_own(backbone, size):
    model = create_model(architecture(backbone, size))
    for network in (model.train(), model.eval()):
        with torch.no_grad():
            output = network(images(size))
        assert output.logits.shape == (3, 5)
        assert output.embedding.shape == (3, model.head.linear.in_features)
        assert output.parts is None


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("test_maxvit", 40),  # windows that do not divide it
        ("test_vit", 40),  # patches that do not divide it
        ("xcit_nano_12_p8_224", 36),
        ("test_convnext", 16),  # shrinks it to nothing: only a look at an image shows it
        ("inception_v3", 32),
    ],
)
@pytest.mark.parametrize("pretrained", [False, True], ids=["from scratch", "pretrained"])
def test_a_size_that_a_backbone_cannot_take_is_refused_in_one_sentence(
    backbone, size, pretrained, monkeypatch
):
    create = timm.create_model

    def with_weights_at_hand(name, pretrained=False, **options):
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", with_weights_at_hand)
    with pytest.raises(UserError) as caught:
        create_model(architecture(backbone, size), pretrained=pretrained)
    message = str(caught.value)
    assert message.startswith(f"model.backbone: {backbone} cannot be built for {size} px (")
    assert message.endswith("; try another data.image_size, such as 224")
    assert "\n" not in message


def test_the_look_at_one_image_leaves_no_trace_in_the_network():
    torch.manual_seed(3)
    ours = create_model(architecture(drop_path_rate=0.1)).backbone
    torch.manual_seed(3)
    plain = timm.create_model("test_resnet", num_classes=0, drop_path_rate=0.1)
    assert ours.training
    assert all(torch.equal(plain.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())


def test_paths_are_dropped_at_the_rate_asked_for():
    kinds = [type(m).__name__ for m in create_model(architecture("test_vit", drop_path_rate=0.2)).modules()]
    assert "DropPath" in kinds
    # swin's own default is 0.1: zero must mean zero
    swin = create_model(architecture("swin_tiny_patch4_window7_224", 56))
    assert not any(getattr(m, "drop_prob", 0) for m in swin.modules())


def test_a_backbone_without_paths_to_drop_is_told_so_only_when_some_are_to_be_dropped():
    with pytest.raises(UserError, match=r"^model.drop_path_rate: vgg11 has no paths to drop; set it to 0$"):
        create_model(architecture("vgg11", drop_path_rate=0.1))


def test_logits_leave_the_head_without_an_activation():
    torch.manual_seed(0)
    model = create_model(architecture(outputs=40)).eval()
    with torch.no_grad():
        output = model(images())
    expected = output.embedding @ model.head.linear.weight.T + model.head.linear.bias
    torch.testing.assert_close(output.logits, expected)
    assert (output.logits < 0).any()
    assert (output.logits.sum(1) - 1).abs().min() > 1e-3


def test_the_head_starts_with_the_variance_of_glorot_and_no_bias():
    torch.manual_seed(0)
    head = LinearHead(600, 200)
    weight = head.linear.weight.detach()
    assert weight.var().item() == pytest.approx(2 / (600 + 200), rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)
    assert weight.abs().max().item() <= (6 / 800) ** 0.5
    assert head.linear.bias.count_nonzero() == 0


def test_dropout_of_the_head_works_in_training_alone():
    torch.manual_seed(0)
    head = LinearHead(400, 3, drop_rate=0.25)
    kept = head.train().dropout(torch.ones(50, 400))
    assert kept.unique().tolist() == [0, pytest.approx(1 / 0.75)]
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(head.eval().dropout(torch.ones(2, 400)), torch.ones(2, 400))


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's
        ("vit_tiny_patch16_224", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_a_network_is_normalised_by_the_data_set_or_as_its_weights_were_trained(backbone, mean, std):
    assert input_statistics(Model(backbone=backbone), MEAN, STD) == (MEAN, STD)
    settings = Model(backbone=backbone, normalize="backbone")
    assert input_statistics(settings, MEAN, STD) == (mean, std)
    (grey,), (spread,) = input_statistics(settings, (0.1,), (0.1,))
    assert (grey, spread) == (pytest.approx(np.mean(mean)), pytest.approx(np.mean(std)))
    five = input_statistics(settings, (0.1,) * 5, (0.1,) * 5)
    assert five == ((*mean, *mean[:2]), (*std, *std[:2]))


# --- cosines ------------------------------------------------------------------------------------------------


def test_a_cosine_head_gives_the_cosines_between_the_embedding_and_its_weights():
    torch.manual_seed(0)
    head = CosineHead(7, 4)
    embedding = 5 * torch.randn(3, 7)
    found = head(embedding).detach()
    for row, a in enumerate(embedding.double().numpy()):
        for output, b in enumerate(head.weight.detach().double().numpy()):
            cosine = (a @ b) / np.sqrt((a @ a) * (b @ b))
            assert found[row, output].item() == pytest.approx(cosine, abs=1e-6)


def test_cosines_ignore_lengths_and_stay_within_one():
    torch.manual_seed(0)
    head = CosineHead(300, 50)
    along = torch.cat([head.weight.detach() * length for length in (1e-4, 1.0, 1e4)])  # (150, 300)
    found = head(along).detach()
    assert found.abs().max() <= 1
    torch.testing.assert_close(found.diagonal(), torch.ones(50), rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:50], found[100:], rtol=0, atol=1e-5)


def test_cosines_are_float32_under_autocast():
    torch.manual_seed(0)
    head, embedding = CosineHead(64, 20), torch.randn(8, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = head(embedding)
    assert found.dtype == torch.float32
    assert torch.equal(found, head(embedding.float()))


def test_a_cosine_network_hands_on_the_embedding_at_its_own_length():
    torch.manual_seed(0)
    model = create_model(architecture(outputs=4, head="cosine", drop_rate=0.5)).eval()
    with torch.no_grad():
        output = model(images())
        assert torch.equal(output.embedding, model.backbone(model.normalize(images())))
        assert torch.equal(output.logits, model.head(output.embedding))
    assert (output.embedding.norm(dim=1) - 1).abs().min() > 1e-2
    assert output.logits.shape == (3, 4)


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_an_embedding_is_projected_to_the_length_asked_for(head):
    torch.manual_seed(0)
    model = create_model(architecture(outputs=4, head=head, embedding=24))
    with torch.no_grad():
        features = model.backbone.eval()(model.normalize(images(n=8)))
        output = model.eval()(images(n=8))
        projected = features @ model.neck.linear.weight.T
        torch.testing.assert_close(output.embedding, projected / (1 + 1e-5) ** 0.5)  # as batch norm starts
        trained = model.neck.train()(features)
    assert output.embedding.shape == (8, 24)
    assert model.neck.linear.bias is None
    assert output.logits.shape == (8, 4)
    torch.testing.assert_close(trained.mean(0), torch.zeros(24), rtol=0, atol=1e-5)
    torch.testing.assert_close(output.logits, model.head(output.embedding))


@pytest.mark.parametrize(("embedding", "dropped"), [(None, "head"), (24, "neck")])
def test_features_are_dropped_once_before_the_first_layer_after_the_backbone(embedding, dropped):
    model = create_model(architecture(head="cosine", embedding=embedding, drop_rate=0.25))
    rates = {
        name.split(".")[0]: module.p
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Dropout) and not name.startswith("backbone") and module.p
    }
    assert rates == {dropped: 0.25}


# --- our own files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "size"), [("test_resnet", 33), ("test_vit", 48)])
def test_a_saved_network_comes_back_bit_by_bit_from_its_file_alone(tmp_path, backbone, size, monkeypatch):
    model = create_model(architecture(backbone, size, drop_rate=0.3, drop_path_rate=0.1))
    with torch.no_grad():
        model(images(size))  # moves batch norm's statistics away from where they start
        before = model.eval()(images(size, seed=1)).logits
    save_model(tmp_path / "model.safetensors", model.architecture, model.state_dict())
    away = tmp_path / "elsewhere" / "anything.safetensors"
    away.parent.mkdir()
    shutil.move(tmp_path / "model.safetensors", away)
    monkeypatch.chdir(away.parent)
    torch.manual_seed(99)
    loaded = load_model(away)
    assert loaded.architecture == model.architecture
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(images(size, seed=1)).logits, before)


EVERY_FIELD = {
    "pooling": {"pooling": "gem"},
    "neck": {"neck": "bnneck", "embedding": 12},
    "dropout samples": {"dropout_samples": 3, "drop_rate": 0.2, "pooling": "dual"},
    "ibn a": {"ibn": "a", "size": 64},
    "ibn b": {"ibn": "b", "size": 64},
    "pcb": {"parts": "pcb", "stripes": 2, "neck": "bnneck", "size": 64},
    "mgn": {"parts": "mgn", "pooling": "max", "ibn": "a", "size": 96},
    "subcenters": {"head": "cosine", "subcenters": 3, "logit_scale": 12.0},
    "head and embedding": {"head": "cosine", "embedding": 12, "drop_rate": 0.1},
    "targets": {"target_mean": (1.0, 2.0), "target_std": (3.0, 4.0), "target_log": True},
    "unet": {"decoder": "unet", "drop_rate": 0.3, "drop_path_rate": 0.1},
    "fpn": {"decoder": "fpn"},
}


@pytest.mark.parametrize("more", EVERY_FIELD.values(), ids=EVERY_FIELD)
def test_every_field_of_an_architecture_comes_back_from_the_file(tmp_path, more):
    model = create_model(
        architecture("test_vit" if "drop_path_rate" in more else "test_resnet", outputs=2, **more)
    )
    size = more.get("size", 32)
    with torch.no_grad():
        model(images(size))
        before = shaken(model.eval())(images(size, seed=1))  # no two tensors are alike
    save_model(tmp_path / "m.safetensors", model.architecture, model.state_dict())
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.architecture == model.architecture
    with torch.no_grad():
        after = loaded(images(size, seed=1))
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(after.embedding, before.embedding)
    assert torch.equal(after.metric, before.metric)


def test_every_field_of_an_architecture_is_among_those_that_come_back():
    fields = {field.name for field in dataclasses.fields(Architecture)}
    always = {"backbone", "n_outputs", "image_size", "mean", "std"}
    assert set().union(*EVERY_FIELD.values()) - {"size"} == fields - always


def test_a_file_from_before_there_were_decoders_is_a_classifier(tmp_path):
    model = create_model(architecture())
    first = ("backbone", "n_outputs", "image_size", "mean", "std", "drop_rate", "drop_path_rate")
    old = {k: v for k, v in model.architecture.as_dict().items() if k in first}
    save_file(model.state_dict(), tmp_path / "old.safetensors", {"architecture": json.dumps(old)})
    loaded = load_model(tmp_path / "old.safetensors")
    assert loaded.architecture == model.architecture
    with torch.no_grad():
        assert torch.equal(loaded(images()).logits, model.eval()(images()).logits)


def test_a_classifiers_tensors_have_the_names_they_always_had():
    names = {n for n in create_model(architecture()).state_dict() if not n.startswith("backbone.")}
    assert names == {"normalize.mean", "normalize.std", "head.linear.weight", "head.linear.bias"}


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_what_compile_and_ddp_put_before_names_is_not_saved(tmp_path, prefix):
    model = create_model(architecture())
    wrapped = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    save_model(tmp_path / "m.safetensors", model.architecture, wrapped)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(model.state_dict())
    loaded = load_model(tmp_path / "m.safetensors")
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in model.state_dict().items())


def test_a_compiled_network_is_saved_under_plain_names(tmp_path):
    model = create_model(architecture())
    compiled = torch.compile(model)  # wraps; nothing is compiled before the first image
    assert next(iter(compiled.state_dict())).startswith("_orig_mod.")
    save_model(tmp_path / "m.safetensors", model.architecture, compiled.state_dict())
    assert load_model(tmp_path / "m.safetensors").architecture == model.architecture


def test_a_channels_last_network_can_be_saved(tmp_path):
    model = create_model(architecture()).to(memory_format=torch.channels_last)
    save_model(tmp_path / "m.safetensors", model.architecture, model.state_dict())
    loaded = load_model(tmp_path / "m.safetensors").state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("module.conv.weight", "conv.weight"),
        ("_orig_mod.module.conv.weight", "conv.weight"),
        ("conv.module.weight", "conv.module.weight"),
        ("modules.weight", "modules.weight"),
    ],
)
def test_only_a_leading_wrapper_is_stripped(name, plain):
    assert strip(name, ("module.", "_orig_mod.")) == plain


# --- weights from elsewhere ---------------------------------------------------------------------------------


def write_checkpoint(path: Path, state: dict) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def assert_filled(backbone: torch.nn.Module, source: torch.nn.Module) -> None:
    theirs = source.state_dict()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_weights_of_timms_own_backbone_are_loaded_whatever_their_classifier(tmp_path, backbone, suffix):
    source = trained(backbone, num_classes=17)
    path = write_checkpoint(tmp_path / f"theirs{suffix}", source.state_dict())
    model = create_model(architecture(backbone, 41, outputs=3), state=read_checkpoint(path))
    assert_filled(model.backbone, source)
    assert model.head.linear.out_features == 3


def test_a_transformers_position_table_is_resized_to_the_images(tmp_path):
    source = trained("test_vit")
    path = write_checkpoint(tmp_path / "vit.pth", source.state_dict())
    backbone = create_model(architecture("test_vit", 48), state=read_checkpoint(path)).backbone
    ours, theirs = backbone.state_dict(), source.state_dict()
    assert ours["pos_embed"].shape == (1, 10, 64)  # a class token, and 3 x 3 patches of 16 pixels
    assert theirs["pos_embed"].shape == (1, 101, 64)
    assert torch.equal(ours["pos_embed"][:, 0], theirs["pos_embed"][:, 0])
    assert ours["pos_embed"].mean().item() == pytest.approx(theirs["pos_embed"].mean().item(), abs=0.1)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name != "pos_embed")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "module.backbone.", "model.module."]
)
@pytest.mark.parametrize("inside", [None, "state_dict", "model", "state_dict_ema"])
def test_a_training_scripts_wrapping_is_taken_off(tmp_path, prefix, inside):
    source = trained()
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    whole = state if inside is None else {"epoch": 3, "optimizer": {"lr": 0.1}, inside: state}
    path = write_checkpoint(tmp_path / "wrapped.pth", whole)
    assert_filled(create_model(architecture(), state=read_checkpoint(path)).backbone, source)


def test_of_the_live_and_the_averaged_weights_the_averaged_are_taken(tmp_path):
    live, averaged = trained(seed=1), trained(seed=2)
    whole = {"state_dict": live.state_dict(), "state_dict_ema": averaged.state_dict()}
    path = write_checkpoint(tmp_path / "timm.pth", whole)
    assert_filled(create_model(architecture(), state=read_checkpoint(path)).backbone, averaged)


def test_a_run_of_ours_can_be_started_from(tmp_path):
    earlier = create_model(architecture(outputs=9))
    save_model(tmp_path / "model.safetensors", earlier.architecture, earlier.state_dict())
    model = create_model(architecture(outputs=4), state=read_checkpoint(tmp_path / "model.safetensors"))
    assert_filled(model.backbone, earlier.backbone)


class Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("inside", [False, True], ids=["bare pickle", "torch archive"])
def test_code_inside_a_checkpoint_is_refused_and_does_not_run(tmp_path, inside):
    marker, path = tmp_path / "it ran", tmp_path / "gift.pth"
    if inside:
        torch.save({"state_dict": trained().state_dict(), "extra": Evil(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    with pytest.raises(
        UserError, match=r"gift.pth is no checkpoint, or holds more than tensors .*safetensors"
    ):
        read_checkpoint(path)
    assert not marker.exists()
    with contextlib.suppress(RuntimeError):  # the test would notice: it does run where it is let
        torch.load(path, weights_only=False)
    assert marker.exists()


def nothing_inside(path):
    torch.save({"epoch": 3}, path)


def one_tensor(path):
    torch.save(torch.zeros(3), path)


def a_list(path):
    torch.save([torch.zeros(3)], path)


def empty(path):
    path.write_bytes(b"")


def a_web_page(path):
    path.write_text("<html>log in first</html>")


def cut_off(path):
    torch.save(trained().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("spoil", [nothing_inside, one_tensor, a_list, empty, a_web_page, cut_off])
def test_a_file_without_usable_weights_is_refused_in_one_sentence(tmp_path, spoil, suffix):
    path = tmp_path / f"weights{suffix}"
    spoil(path)
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"model.weights: {path} ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("test_vit", "test_resnet"),
        ("test_resnet", "test_vit"),
        ("test_resnet", "test_convnext"),
        ("test_efficientnet", "test_resnet"),
        ("test_resnet", "swin_tiny_patch4_window7_224"),
    ],
)
def test_weights_of_another_architecture_are_refused_with_how_many_match(theirs, ours):
    wanted = [n for n in timm.create_model(ours, num_classes=0).state_dict() if "num_batches" not in n]
    with pytest.raises(UserError) as caught:
        create_model(architecture(ours, 64), state=trained(theirs).state_dict())
    message = str(caught.value)
    assert message.startswith("model.weights: ")
    matched, of = (int(message.split()[i]) for i in (1, 4))
    assert of == len(wanted)
    assert matched < of / 2
    assert message.endswith("give weights of this very backbone, or set model.backbone to theirs")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_vit"])
def test_weights_for_three_colours_fit_any_number_of_channels_as_timm_fits_its_own(backbone, channels):
    source, first = trained(backbone), {"test_resnet": "conv1.0", "test_efficientnet": "conv_stem"}
    key = f"{first.get(backbone, 'patch_embed.proj')}.weight"
    wanted = Architecture(backbone, 3, 160, (0.5,) * channels, (0.2,) * channels)
    ours = create_model(wanted, state=source.state_dict()).backbone.state_dict()
    expected = timm.models.adapt_input_conv(channels, source.state_dict()[key])
    torch.testing.assert_close(ours[key], expected)
    assert all(torch.equal(ours[name], source.state_dict()[name]) for name in ours if name != key)


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_weights_for_one_channel_say_of_grey_images_what_they_said(channels):
    source = trained(in_chans=1, num_classes=0).eval()
    wanted = Architecture("test_resnet", 3, 32, (0.5,) * channels, (0.2,) * channels)
    backbone = create_model(wanted, state=source.state_dict()).backbone.eval()
    grey = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(grey.expand(-1, channels, -1, -1)), source(grey))


def test_a_single_lost_tensor_is_noticed():
    state = trained().state_dict()
    del state["layer3.0.conv1.weight"]
    with pytest.raises(UserError, match=r"74 of the 75 tensors .*layer3.0.conv1.weight .* is absent"):
        create_model(architecture(), state=state)


@pytest.mark.parametrize(
    "error", [OSError("offline"), ValueError("no such repo"), RuntimeError("no weights"), Exception("httpx")]
)
def test_weights_that_cannot_be_fetched_are_one_plain_sentence(monkeypatch, error):
    create = timm.create_model

    def without_network(name, pretrained=False, **options):
        if pretrained:
            assert socket.getdefaulttimeout() is not None  # a server that says nothing is not waited for
            raise error
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", without_network)
    with pytest.raises(UserError) as caught:
        create_model(architecture(), pretrained=True)
    assert socket.getdefaulttimeout() is None
    assert str(caught.value) == (
        f"model.pretrained: the weights of test_resnet could not be fetched ({error}); "
        f"connect, give a file as model.weights, or set model.pretrained=false"
    )


def test_weights_at_hand_are_not_fetched(monkeypatch):
    create = timm.create_model

    def without_network(name, pretrained=False, **options):
        assert not pretrained
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", without_network)
    source = trained()
    assert_filled(create_model(architecture(), pretrained=True, state=source.state_dict()).backbone, source)
