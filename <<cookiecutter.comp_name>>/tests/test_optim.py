"""The optimiser."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from src.config import Train
from src.models.build import Architecture, create_model
from src.training.optim import create_optimizer


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lion", "nadam", "radam"])
def test_weight_decay_spares_biases_and_norm_layers(name):
    model = create_model(Architecture("test_resnet", 4, 32, (0.5,) * 3, (0.2,) * 3))
    optimizer = create_optimizer(model, Train(optimizer=name, lr=0.01, weight_decay=0.05))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for layer in model.modules():
        for kind, parameter in layer.named_parameters(recurse=False):
            spared = kind == "bias" or not isinstance(layer, (nn.Conv2d, nn.Linear))
            assert decay[id(parameter)] == (0.0 if spared else 0.05)
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_fused_step_is_the_step_of_torchs_own_loop(name):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    first = create_optimizer(ours, Train(optimizer=name, lr=0.01))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    more = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {"weight_decay": 0.0}
    second = kind(theirs.parameters(), lr=0.01, foreach=False, **more)
    x = torch.randn(8, 5)
    for _ in range(5):
        for model, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)
