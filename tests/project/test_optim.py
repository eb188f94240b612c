"""The optimiser: which parameters it moves, at which rate, with which decay; and what stays frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from trainers import make_trainer, silent

from src.config import Ema, Train, UserError
from src.models.build import Architecture, Network, create_model
from src.models.stages import stages
from src.training.freeze import Freeze
from src.training.optim import create_optimizer
from src.training.parameter_groups import layers_to_head, parameter_groups

FAMILIES = [  # one of each kind
    "test_resnet",
    "test_vit",
    "test_convnext",
    "test_efficientnet",
    "test_nfnet",
    "test_mambaout",
    "beit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
]


def network(name: str = "test_resnet", size: int = 32, **more) -> Network:
    """A network whose every parameter gets a gradient: timm starts residual branches at zero."""
    model = create_model(Architecture(name, 4, size, (0.5,) * 3, (0.2,) * 3, **more))
    awake(model.backbone)
    return model


def awake(backbone: nn.Module) -> None:
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)


def rate_of(model: nn.Module, settings: Train) -> dict[str, float]:
    """The rate of every parameter that the optimiser has."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = create_optimizer(model, settings).param_groups
    assert sum(len(group["params"]) for group in groups) == len({id(p) for g in groups for p in g["params"]})
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


class TwoParts(nn.Module):
    """The least that has a backbone and a head."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(5, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


# --- steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lion", "nadam", "radam"])
def test_weight_decay_spares_biases_and_norm_layers(name):
    model = network()
    optimizer = create_optimizer(model, Train(optimizer=name, lr=0.01, weight_decay=0.05))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for layer in model.modules():
        for kind, parameter in layer.named_parameters(recurse=False):
            spared = kind == "bias" or not isinstance(layer, (nn.Conv2d, nn.Linear))
            assert decay[id(parameter)] == (0.0 if spared else 0.05)
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)


def test_weight_decay_spares_what_the_backbones_authors_spared():
    model = network("test_vit", 160)
    decay = {
        id(p): g["weight_decay"]
        for g in parameter_groups(model, Train(weight_decay=0.1))
        for p in g["params"]
    }
    assert model.backbone.pos_embed.ndim == 3
    assert decay[id(model.backbone.pos_embed)] == 0.0
    assert decay[id(model.backbone.blocks[0].attn.qkv.weight)] == 0.1


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("momentum", [None, 0.5])
def test_the_fused_step_is_the_step_of_torchs_own_loop(name, momentum):
    torch.manual_seed(0)
    ours, theirs = TwoParts(), TwoParts()
    theirs.load_state_dict(ours.state_dict())
    first = create_optimizer(ours, Train(optimizer=name, lr=0.01, momentum=momentum))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    more = {"momentum": momentum or 0.9, "nesterov": True} if name == "sgd" else {"weight_decay": 0.0}
    second = kind(theirs.parameters(), lr=0.01, foreach=False, **more)
    x = torch.randn(8, 5)
    for _ in range(5):
        for model, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# --- rates by depth -----------------------------------------------------------------------------------------


def test_the_head_learns_at_the_peak_and_the_backbone_at_its_share():
    rates = rate_of(network(embedding=8, head="cosine"), Train(lr=0.01, backbone_lr=0.1))
    for name, rate in rates.items():
        assert rate == pytest.approx(0.001 if name.startswith("backbone.") else 0.01), name
    assert {name.split(".")[0] for name in rates} == {"backbone", "neck", "head"}


def test_a_decoder_counts_as_head():
    rates = rate_of(network(decoder="unet"), Train(lr=0.01, backbone_lr=0.5))
    assert {rate for name, rate in rates.items() if name.startswith("decoder.")} == {0.01}
    assert {rate for name, rate in rates.items() if name.startswith("backbone.")} == {0.005}


@pytest.mark.parametrize("name", FAMILIES)
def test_layer_decay_is_timms_for_the_same_backbone_with_its_classifier(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=4)
        bare = timm.create_model(name, num_classes=0)
    expected = {}
    for group in param_groups_layer_decay(theirs, layer_decay=0.75):
        names = {id(p): key for key, p in theirs.named_parameters()}
        expected |= {names[id(p)]: group["lr_scale"] for p in group["params"]}
    found = {key: 0.75**layers for key, layers in layers_to_head(bare).items()}
    assert found == pytest.approx({key: expected[key] for key in found})
    assert len(set(found.values())) > 3
    assert set(expected.values()) - set(found.values()) <= {1.0}  # the classifier's own


def test_layer_decay_and_a_share_for_the_backbone_multiply():
    model = network("test_vit", 160)
    rates = rate_of(model, Train(lr=0.01, layer_decay=0.5, backbone_lr=0.1))
    last = len(model.backbone.blocks) - 1
    assert rates["head.linear.weight"] == 0.01
    assert rates[f"backbone.blocks.{last}.attn.qkv.weight"] == pytest.approx(0.01 * 0.1 * 0.5)
    assert rates["backbone.blocks.0.attn.qkv.weight"] == pytest.approx(0.01 * 0.1 * 0.5 ** (last + 1))
    assert rates["backbone.patch_embed.proj.weight"] == pytest.approx(0.01 * 0.1 * 0.5 ** (last + 2))


def test_a_family_that_timm_does_not_group_is_refused_with_what_to_set():
    with torch.device("meta"):
        backbone = timm.create_model("pit_ti_224", num_classes=0)
    with pytest.raises(UserError, match=r"train.layer_decay: .* PoolingVisionTransformer .* set it to null"):
        layers_to_head(backbone)


# --- frozen for good ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 32), ("test_convnext", 32), ("test_vit", 160)])
def test_stages_hold_every_parameter_once_from_the_stem_on(name, size):
    backbone = network(name, size).backbone
    found = stages(backbone)
    assert sorted(n for stage in found for n in stage) == sorted(n for n, _ in backbone.named_parameters())
    assert any(n.startswith(("conv1", "stem", "patch_embed")) for n in found[0])


def step(model: nn.Module, settings: Train) -> set[str]:
    """The parameters, and the batch norms' statistics, that one step of training moves."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = create_optimizer(model, settings)
    torch.manual_seed(0)
    output = model(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    output.logits.square().mean().backward()
    optimizer.step()
    return {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}


SGD = {"optimizer": "sgd", "lr": 0.5, "weight_decay": 0.1, "ema": Ema(enabled=False)}


@pytest.mark.parametrize("count", [1, 3])
def test_frozen_stages_keep_weights_and_statistics_and_all_others_move(count):
    model, settings = network(), Train(**SGD, freeze_stages=count)
    frozen = {f"backbone.{name}" for stage in stages(model.backbone)[:count] for name in stage}
    Freeze(model, settings)
    moved = step(model, settings)
    parameters = {name for name, _ in model.named_parameters()}
    assert moved & parameters == parameters - frozen
    layers = {name.rpartition(".")[0] for name in frozen}
    statistics = {name for name in model.state_dict() if "running" in name or "tracked" in name}
    assert moved & statistics == {name for name in statistics if name.rpartition(".")[0] not in layers}
    assert len(frozen) > 0
    assert len(moved & statistics) > 0


def test_freezing_by_gradients_alone_would_still_move_the_statistics():
    model = network()
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    moved = step(model.train(), Train(**SGD))
    assert any("running_mean" in name for name in moved)


def test_frozen_batch_norms_keep_weights_and_statistics_and_convolutions_move():
    model, settings = network(), Train(**SGD, freeze_bn=True)
    Freeze(model, settings)
    moved = step(model, settings)
    norms = {n for n, layer in model.backbone.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert len(norms) > 3
    for name, _ in model.named_parameters():
        assert (name in moved) == (name.removeprefix("backbone.").rpartition(".")[0] not in norms)
    assert not any("running" in name or "tracked" in name for name in moved)


def test_a_decoders_batch_norms_are_not_the_backbones():
    model, settings = network(decoder="unet"), Train(**SGD, freeze_bn=True)
    freeze = Freeze(model, settings)
    assert all(layer.training for layer in model.decoder.modules())
    assert freeze.norms
    assert all(name.startswith("backbone.") for name in freeze.norms)


def test_more_stages_than_there_are_is_refused():
    model = network()
    with pytest.raises(UserError, match=r"freeze_stages=9: the backbone has 5 stages.*1 to 4"):
        Freeze(model, Train(freeze_stages=9))


def test_dropout_inside_a_frozen_block_is_off_and_elsewhere_on():
    model = network("test_vit", 160, drop_path_rate=0.3)
    Freeze(model, Train(freeze_stages=2))  # the patches, and the first block
    assert not any(layer.training for layer in model.backbone.blocks[0].modules())
    assert all(layer.training for layer in model.backbone.blocks[1].modules())


# --- frozen at first ----------------------------------------------------------------------------------------


@pytest.fixture
def pretrained(prepared) -> Path:
    """The small competition with a backbone to start from."""
    torch.manual_seed(5)
    backbone = timm.create_model("test_resnet", num_classes=0)
    awake(backbone)
    torch.save(backbone.state_dict(), prepared / "weights.pth")
    path = prepared / "configs" / "baseline.yaml"
    path.write_text(path.read_text().replace("pretrained: false", "weights: weights.pth"))
    return prepared


def states(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def same(first: dict, second: dict, prefix: str) -> list[bool]:
    return [torch.equal(first[name], second[name]) for name in first if name.startswith(prefix)]


def test_at_first_the_head_learns_alone_and_then_all(pretrained):
    trainer = make_trainer(pretrained, "train.epochs=3", "train.freeze_epochs=2", "train.weight_decay=0.1")
    begun = states(trainer)
    for epoch in range(2):
        trainer.train_epoch(epoch, silent)
        now = states(trainer)
        assert all(same(begun, now, "backbone."))  # weights and statistics
        assert not any(same(begun, now, "head."))
    trainer.train_epoch(2, silent)
    assert not any(same(begun, states(trainer), "backbone.conv1"))
    assert not any(same(begun, states(trainer), "backbone.bn1"))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lion"])
def test_the_moments_of_the_backbone_start_fresh_with_the_thaw(pretrained, optimizer):
    trainer = make_trainer(
        pretrained,
        "train.epochs=3",
        "train.freeze_epochs=2",
        f"train.optimizer={optimizer}",
        "train.clip_grad=1",
    )
    backbone, head = set(trainer.model.backbone.parameters()), set(trainer.model.head.parameters())
    trainer.train_epoch(0, silent)
    trainer.train_epoch(1, silent)
    assert {p for p in trainer.optimizer.state if trainer.optimizer.state[p]} == head
    trainer.train_epoch(2, silent)
    assert {p for p in trainer.optimizer.state if trainer.optimizer.state[p]} == backbone | head
    if optimizer == "adam":
        counts = {p: int(state["step"]) for p, state in trainer.optimizer.state.items()}
        steps = trainer.steps_per_epoch
        assert {counts[p] for p in head} == {3 * steps}
        assert {counts[p] for p in backbone} == {steps}


def test_all_ways_of_fine_tuning_combine(pretrained):
    trainer = make_trainer(
        pretrained,
        "train.epochs=2",
        "train.freeze_epochs=1",
        "train.freeze_stages=1",
        "train.freeze_bn=true",
        "train.backbone_lr=0.5",
        "train.layer_decay=0.5",
        "train.warmup_epochs=0",
        "train.schedule=constant",
    )
    begun = states(trainer)
    trainer.train_epoch(0, silent)
    assert all(same(begun, states(trainer), "backbone."))
    trainer.train_epoch(1, silent)
    now, stem = states(trainer), stages(trainer.model.backbone)[0]
    norms = {n for n, layer in trainer.model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    for name, before in begun.items():
        if not name.startswith("backbone."):
            continue
        kept = name.removeprefix("backbone.") in stem or name.rpartition(".")[0] in norms
        assert torch.equal(before, now[name]) == kept, name
    rates = {round(group["lr"] / 0.004, 6) for group in trainer.optimizer.param_groups}
    assert rates == {1.0, 0.25, 0.125, 0.0625, 0.03125}
