"""Gradient checkpointing: the same numbers in every respect, from less memory."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from networks import architecture, images
from torch import nn

from src.config import UserError
from src.models.build import create_model
from src.models.checkpointing import checkpoint_gradients


def step(
    model: nn.Module, x: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Logits, gradients and buffers after two training batches."""
    torch.manual_seed(3)
    for batch in (x, x.flip(0)):
        model.zero_grad()
        logits = model.train()(batch).logits
        logits.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return logits, gradients, dict(model.named_buffers())


@pytest.mark.parametrize(
    ("backbone", "more"),
    [
        ("test_resnet", {"drop_path_rate": 0.2, "drop_rate": 0.2}),
        ("test_resnet", {"ibn": "a", "parts": "pcb", "stripes": 2, "pooling": "gem"}),
        ("test_resnet", {"parts": "mgn", "neck": "bnneck"}),
        ("test_efficientnet", {}),
        ("test_vit", {"drop_path_rate": 0.1}),
        ("test_convnext", {}),
        ("mobilenetv2_050", {"decoder": "unet"}),
    ],
)
def test_gradients_and_statistics_are_those_without_it(backbone, more):
    torch.manual_seed(0)
    plain = create_model(architecture(backbone, 96, **more))
    saving = copy.deepcopy(plain)
    checkpoint_gradients(saving.backbone, backbone)
    assert torch.equal(step(plain, images(96))[0], step(saving, images(96))[0])
    for expected, found in zip(step(plain, images(96))[1:], step(saving, images(96))[1:], strict=True):
        assert expected.keys() == found.keys()
        assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_without_care_batch_norms_would_count_a_batch_twice():
    """What the test above would see: timm's switch alone."""
    torch.manual_seed(0)
    plain = create_model(architecture("test_resnet", 64))
    saving = copy.deepcopy(plain)
    saving.backbone.set_grad_checkpointing(True)
    counted = [
        step(model, images(64))[2]["backbone.layer1.0.bn1.num_batches_tracked"] for model in (plain, saving)
    ]
    assert [int(count) for count in counted] == [2, 4]


def test_activations_inside_a_block_are_not_kept():
    def kept(model: nn.Module) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            model.train()(images(96)).logits.sum()
        return sum(sizes)

    plain = create_model(architecture("test_vit", 96))
    saving = copy.deepcopy(plain)
    checkpoint_gradients(saving.backbone, "test_vit")
    assert kept(saving) < 0.5 * kept(plain)


def test_a_copy_and_an_evaluation_are_no_trouble():
    model = create_model(architecture("test_resnet", 64))
    before = model.eval()(images(64)).logits
    checkpoint_gradients(model.backbone, "test_resnet")
    twin = copy.deepcopy(model)  # as the moving average is one
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error")
        assert torch.equal(twin.eval()(images(64)).logits, before)
    assert {n.momentum for n in twin.modules() if isinstance(n, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("backbone", ["dla34", "hrnet_w18_small", "inception_v3"])
def test_a_family_without_it_is_refused(backbone):
    model = create_model(architecture(backbone, 128))
    with pytest.raises(UserError, match=rf"^model.checkpointing: {backbone} has no gradient checkpointing"):
        checkpoint_gradients(model.backbone, backbone)
