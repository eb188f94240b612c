"""Multi-scale training: which sizes, drawn from the batch's seed, images and masks together, and only with a
backbone that takes them."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from src.config import Config, UserError
from src.configfile import load_config
from src.data.loaders import load_fold
from src.data.mask_targets import to_loss_targets
from src.data.multi_scale import Scales, create_scales, sizes_of, stride_of
from src.maps import UNSURE
from src.models.build import Architecture, create_model
from src.models.sizes import check_sizes
from src.tasks import create_task
from src.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def network(backbone: str, size: int, decoder: str | None = None, channels: int = 3):
    means = (0.5,) * channels
    return create_model(Architecture(backbone, 2, size, means, (0.2,) * channels, decoder=decoder))


def read(project: Path, *overrides: str) -> Config:
    return load_config(project / "configs" / "baseline.yaml", list(overrides))


def silent(*_: object, **__: object) -> None:
    """A report that nobody reads."""


# --- which sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "size", "stride", "sizes"),
    [
        ((0.75, 1.0, 1.25), 224, 32, (160, 224, 288)),
        ((1.25, 0.75), 224, 32, (160, 288)),
        ((0.5, 1.0, 1.5), 256, 16, (128, 256, 384)),
        ((0.9, 1.0, 1.1), 224, 32, (192, 224, 256)),
        ((0.25, 1.0), 64, 32, (32, 64)),  # never less than a stride
        ((0.9, 1.0, 1.25), 50, 32, (32, 50, 64)),  # the size itself stays, whole strides or not
    ],
)
def test_sizes_are_whole_strides_but_for_the_size_itself(shares, size, stride, sizes):
    assert sizes_of(shares, size, stride) == sizes


@pytest.mark.parametrize(("size", "stride"), [(64, 32), (32, 32), (224, 32), (256, 16)])
def test_shares_that_round_to_one_size_are_refused_with_better_ones(size, stride):
    why = rf"\[0.99, 1.0\] of {size} px are all {size} px in strides of {stride}; .* such as \[(.*)\],"
    with pytest.raises(UserError, match=why) as caught:
        sizes_of((0.99, 1.0), size, stride)
    good = re.search(why, str(caught.value))[1]
    assert len(sizes_of(tuple(map(float, good.split(","))), size, stride)) > 1


@pytest.mark.parametrize(
    ("backbone", "size", "stride"),
    [("test_resnet", 32, 32), ("test_convnext", 64, 32), ("test_vit", 160, 16)],
)
def test_the_stride_is_the_backbones_own(backbone, size, stride):
    assert stride_of(network(backbone, size)) == stride


@pytest.mark.parametrize("shares", ["[1]", "[0.75,0.75]", "[]"])
def test_one_size_is_no_choice(project, shares):
    with pytest.raises(UserError, match=r"augment.scales=.* is one size: give two or more"):
        read(project, f"augment.scales={shares}")


# --- the draw and the resizing ------------------------------------------------------------------------------


def test_every_size_comes_as_often_and_from_the_seed_alone():
    scales, images, n = Scales((32, 48, 64)), torch.zeros(1, 1, 48, 48, dtype=torch.uint8), 1500
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sides = [scales(images, torch.zeros(1, 2), seed)[0].shape[-1] for seed in range(n)]
    assert torch.equal(torch.get_rng_state(), before)
    assert sides == [scales(images, torch.zeros(1, 2), seed)[0].shape[-1] for seed in range(n)]
    counts = Counter(sides)
    assert set(counts) == {32, 48, 64}
    assert all(abs(count / n - 1 / 3) <= 5 * math.sqrt(2 / 9 / n) for count in counts.values())


def test_without_scales_and_at_its_own_size_a_batch_goes_through_untouched():
    images, targets = torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.zeros(2, 5)
    for scales in (Scales(), Scales((16,))):
        after = scales(images, targets, 0)
        assert after[0] is images
        assert after[1] is targets


@pytest.mark.parametrize("size", [20, 64])
def test_images_are_resized_as_pillow_does_it_bilinear_and_without_aliasing(size):
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    found, _ = Scales((size,))(x, torch.zeros(1, 1), 0)
    assert found.is_floating_point()
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.BILINEAR)).astype(float)
    assert np.abs(found[0].permute(1, 2, 0).numpy() - expected).max() < 1.01  # Pillow rounds twice


@pytest.mark.parametrize("size", [32, 72])
def test_masks_are_resized_with_their_images_and_no_level_between_two_is_made(size):
    noise = np.random.default_rng(0).normal(size=(48, 48)).astype(np.float32)
    blobs = (cv2.GaussianBlur(noise, (0, 0), 4) > 0).astype(np.uint8) * 255
    levels = torch.from_numpy(blobs)[None, None]
    images, masks = Scales((size,))(levels, to_loss_targets(levels), 0)
    assert masks.shape == images.shape == (1, 1, size, size)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    off = ((images > 127.5) != (masks > 0.5))[0, 0].numpy()
    edges = cv2.morphologyEx(masks[0, 0].byte().numpy(), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    assert not (off & ~edges).any()
    assert off.mean() < 0.04


def test_unsure_pixels_stay_unsure_and_do_not_spread():
    levels = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    levels[..., 4:8, 4:8] = UNSURE
    levels[..., 8:12, 8:12] = 255
    _, masks = Scales((32,))(levels, to_loss_targets(levels), 0)
    expected = to_loss_targets(levels).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(masks, expected, equal_nan=True)


# --- which backbones ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_convnext", "test_nfnet"])
@pytest.mark.parametrize("decoder", [None, "unet"])
def test_convolutional_networks_take_other_sizes_and_are_left_as_they_were(backbone, decoder):
    model = network(backbone, 64, decoder).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_sizes(model, (32, 96), "augment.scales")
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "size", "other"),
    [
        ("vit_tiny_patch16_224", 224, 192),  # a table of positions, without dynamic_img_size
        ("swin_tiny_patch4_window7_224", 224, 256),  # strict_img_size
        ("maxvit_rmlp_pico_rw_256", 256, 192),  # windows that must divide every map
    ],
)
def test_transformers_tied_to_a_size_are_refused_with_what_to_do(backbone, size, other):
    says = rf"augment.scales: model.backbone={backbone} was built for {size} px and cannot look at {other} \("
    with pytest.raises(UserError, match=says) as error:
        check_sizes(network(backbone, size), [other], "augment.scales")
    assert "leave augment.scales=null, or take a convolutional backbone" in str(error.value)


def test_a_transformer_is_refused_before_the_first_epoch(prepared):
    config = read(prepared, "model.backbone=vit_tiny_patch16_224", "augment.scales=[1,2]")
    task = create_task(config)
    data = load_fold(config, task, 0)
    with pytest.raises(
        UserError, match=r"augment\.scales: model.backbone=vit_tiny_patch16_224 was built for 16 px"
    ):
        Trainer(config, task, data, data.train, 0, CPU)


def test_channels_are_the_networks_own():
    check_sizes(network("test_resnet", 32, channels=5), [64], "augment.scales")


# --- in the loop --------------------------------------------------------------------------------------------


def test_training_shows_every_size_and_evaluation_only_its_own(prepared, monkeypatch):
    config = read(prepared, "augment.scales=[1,2,4]", "train.batch_size=4", "train.ema.enabled=false")
    task = create_task(config)
    data = load_fold(config, task, 0)
    trainer = Trainer(config, task, data, data.train, 0, CPU)
    assert create_scales(config, trainer.model).sizes == trainer.scales.sizes == (16, 32, 64)
    seen: list[tuple[bool, int]] = []
    forward = trainer.model.forward

    def look(images):
        seen.append((trainer.model.training, images.shape[-1]))
        return forward(images)

    monkeypatch.setattr(trainer.model, "forward", look)
    row = trainer.train_epoch(0, silent)
    assert np.isfinite(row["train_loss"])
    assert {side for training, side in seen if training} == {16, 32, 64}
    assert {side for training, side in seen if not training} == {16}
