"""Local parts: where stripes are cut, what is copied of the last stage, and one answer of all in
evaluation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import architecture, images, shaken
from torch import nn

from src.config import UserError
from src.models.build import create_model
from src.models.laststage import LastStage
from src.models.parts import MGN, PCB, REDUCED, horizontal_stripes

SIZE = 96  # three rows of 32 pixels


def network(parts: str, backbone: str = "test_resnet", size: int = SIZE, **more) -> nn.Module:
    if parts == "pcb":
        more = {"stripes": 3} | more
    torch.manual_seed(0)
    return create_model(architecture(backbone, size, parts=parts, **more))


# --- stripes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "count"), [(6, 6), (24, 6), (7, 6), (7, 3), (8, 3), (3, 2), (2, 3)])
def test_stripes_are_the_bins_of_torchs_adaptive_pooling(rows, count):
    maps = torch.randn(2, 3, rows, 5)
    means = torch.stack(
        [stripe.mean((2, 3)) for stripe in horizontal_stripes(maps, count)], 2
    )  # (B, C, count)
    torch.testing.assert_close(means, F.adaptive_avg_pool2d(maps, (count, 1)).squeeze(3))


@pytest.mark.parametrize("pooling", [None, "avg", "max", "dual", "gem"])
def test_each_stripe_of_pcb_has_an_embedding_and_a_head_of_its_own(pooling):
    model = network("pcb", pooling=pooling).train()
    output = model(images(SIZE, n=4))
    assert [tuple(part.embedding.shape) for part in output.parts] == [(4, REDUCED)] * 3
    assert [tuple(part.logits.shape) for part in output.parts] == [(4, 5)] * 3
    maps = model.features.maps(
        model.backbone.forward_features(model.normalize(images(SIZE, n=4))), (SIZE, SIZE)
    )
    for row, (part, said) in enumerate(zip(model.parts.parts, output.parts, strict=True)):
        pooled = model.parts.pooling(maps[:, :, row : row + 1])
        reduced = F.relu(F.batch_norm(pooled @ part.neck.linear.weight.T, None, None, training=True))
        torch.testing.assert_close(said.embedding, reduced, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(said.logits, part.head(said.embedding))


def test_a_transformers_tokens_are_cut_too():
    model = network("pcb", "test_vit", 64, stripes=2).eval()
    with torch.no_grad():
        tokens = model.backbone.forward_features(model.normalize(images(64)))[:, 1:]
        upper = model.parts.parts[0](tokens[:, :8].mean(1))  # two of the four rows of four
        maps = model.features.maps(model.backbone.forward_features(model.normalize(images(64))), (64, 64))
        torch.testing.assert_close(model.parts(maps)[0].embedding, upper.embedding)


def test_pcb_has_six_stripes_unless_told_otherwise():
    assert len(network("pcb", size=192, stripes=None).parts.parts) == 6


@pytest.mark.parametrize(("parts", "count"), [("pcb", 4), ("mgn", 3)])
def test_more_stripes_than_rows_are_refused(parts, count):
    with pytest.raises(UserError) as caught:
        network(parts, size=64, **({"stripes": 4} if parts == "pcb" else {}))
    lower = "lower model.stripes, " if parts == "pcb" else ""
    assert str(caught.value) == (
        f"model.parts={parts} cuts {count} stripes, and the map of test_resnet has 2 row(s) at 64 px; "
        f"{lower}raise data.image_size, or set model.parts=null"
    )


# --- the whole and its parts as one -------------------------------------------------------------------------


@pytest.mark.parametrize("parts", ["pcb", "mgn"])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_in_evaluation_all_answers_are_one(parts, head):
    model = shaken(network(parts, head=head, neck="bnneck")).eval()
    x = images(SIZE)
    with torch.no_grad():
        output = model(x)
        model.training = True  # as train(), but for batch norms and dropout
        said = model(x)
    count = 1 + len(said.parts)
    assert count == (4 if parts == "pcb" else 8)
    assert output.parts is None
    torch.testing.assert_close(output.logits, sum(one.logits for one in said.all()) / count)
    assert output.embedding.shape == (3, 96 + (count - 1) * REDUCED)
    expected = torch.cat([F.normalize(one.embedding, dim=1) for one in said.all()], 1)
    torch.testing.assert_close(output.embedding, expected)


@pytest.mark.parametrize("parts", ["pcb", "mgn"])
def test_the_whole_is_what_it_is_without_parts(parts):
    plain = create_model(architecture("test_resnet", SIZE)).eval()
    model = network(parts).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    model.training = True
    with torch.no_grad():
        torch.testing.assert_close(model(images(SIZE)).logits, plain(images(SIZE)).logits)


# --- MGN ----------------------------------------------------------------------------------------------------


def test_mgn_has_a_whole_and_two_stripes_a_whole_and_three():
    model = network("mgn", pooling="max").eval()
    x = model.normalize(images(SIZE))
    with torch.no_grad():
        before = model.backbone.forward_intermediates(x, indices=[-2], intermediates_only=True)[0]
        output = model.parts(before)
        assert len(output) == 7
        for start, branch, parts in zip((0, 3), model.parts.branches, model.parts.parts, strict=True):
            maps = branch(before)
            rows = [maps, *maps.chunk(len(parts) - 1, dim=2)]  # six rows, for two and for three
            for said, part, place in zip(output[start:], parts, rows, strict=False):
                torch.testing.assert_close(said.embedding, part(place.amax((2, 3))).embedding)


def test_copies_of_a_resnets_last_stage_start_with_its_weights_and_keep_the_size_of_what_enters():
    for backbone in ("test_resnet", "resnet26", "resnet18"):
        model = network("mgn", backbone)
        stage = list(model.backbone.layer4.state_dict().values())
        for branch in model.parts.branches:
            copied = list(branch.state_dict().values())
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(copied, stage, strict=True))
            assert copied[0].data_ptr() != stage[0].data_ptr()
            assert branch(torch.rand(2, model.backbone.feature_info[-2]["num_chs"], 6, 6)).shape[2:] == (6, 6)
        assert model.backbone.layer4(torch.rand(2, model.backbone.feature_info[-2]["num_chs"], 6, 6)).shape[
            2:
        ] == (3, 3)


@pytest.mark.parametrize(
    ("backbone", "names"),
    [
        ("test_convnext", ("stages.3",)),
        ("test_efficientnet", ("blocks.4",)),
        ("mobilenetv2_050", ("blocks.5", "blocks.6")),
        ("test_byobnet", ("stages.3", "final_conv")),
        ("test_mambaout", ("stages.3",)),  # in (B, H, W, C)
        ("swin_tiny_patch4_window7_224", ("layers.3",)),
    ],
)
def test_the_last_stage_of_other_families_is_found_and_its_copy_makes_their_last_map(backbone, names):
    model = network("mgn", backbone).eval()
    assert model.last_stage.names == names
    x = model.normalize(images(SIZE))
    with torch.no_grad():
        before, last = model.backbone.forward_intermediates(x, indices=[-2, -1], intermediates_only=True)
        torch.testing.assert_close(model.parts.branches[0](before), last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("backbone", "size"), [("test_vit", 96), ("hrnet_w18_small", 96)])
def test_a_last_stage_that_cannot_be_taken_apart_is_refused(backbone, size):
    with pytest.raises(UserError) as caught:
        network("mgn", backbone, size)
    assert str(caught.value) == (
        f"model.parts=mgn copies a backbone's last stage, and that of {backbone} cannot be taken apart; set "
        f"model.parts=pcb, or a backbone such as resnet50"
    )
    network("pcb", backbone, size)


def test_a_copy_goes_its_own_way():
    model = network("mgn").train()
    output = model(images(SIZE, n=4))
    output.parts[0].logits.square().sum().backward()
    moved = {
        name.split(".")[2]
        for name, p in model.named_parameters()
        if p.grad is not None and "branches" in name
    }
    assert moved == {"0"}
    assert model.backbone.layer4[0].conv1.weight.grad is None
    assert model.backbone.layer3[0].bn3.weight.grad.abs().sum() > 0


# --- learning -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", ["pcb", "mgn"])
def test_every_weight_gets_a_finite_gradient_also_in_half_precision(parts):
    model = network(parts, pooling="gem", neck="bnneck", drop_rate=0.2, dropout_samples=2).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images(SIZE, n=4))
        loss = sum(F.cross_entropy(one.logits.float(), torch.tensor([0, 1, 2, 3])) for one in output.all())
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_kinds_of_parts():
    assert isinstance(network("pcb").parts, PCB)
    model = network("mgn")
    assert isinstance(model.parts, MGN)
    assert isinstance(model.last_stage, LastStage)
