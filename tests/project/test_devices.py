"""Mixed precision, devices, and how many processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from trainers import CPU, make_trainer, read, silent

import src.machine
from src.config import UserError
from src.training.devices import Precision, devices, loader_workers


def test_a_cpu_trains_in_full_precision_unless_told_otherwise():
    assert Precision("auto", CPU).dtype is None
    assert not Precision("auto", CPU).scaler.is_enabled()
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    with Precision("auto", CPU).autocast():
        assert layer(x).dtype == torch.float32
    with Precision("bf16", CPU).autocast():
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_a_gpu_gets_bfloat16_where_it_has_it_and_else_float16_with_loss_scaling(
    monkeypatch, capability, dtype
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    precision = Precision("auto", torch.device("cuda"))
    assert precision.dtype is dtype
    assert precision.scaler.is_enabled() == (dtype is torch.float16)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_gradients_are_clipped_to_the_largest_norm_and_forgotten_after_the_step(clip):
    layer = nn.Linear(4, 1, bias=False)
    before = layer.weight.detach().clone()
    precision, optimizer = Precision("auto", CPU), torch.optim.SGD(layer.parameters(), lr=1.0)
    precision.backward(layer(torch.full((1, 4), 3.0)).sum())  # a gradient of norm 6
    precision.step(optimizer, layer, clip)
    assert (before - layer.weight).norm().item() == pytest.approx(clip or 6.0, rel=1e-4)
    assert layer.weight.grad is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("gpu", "is no device; a good one is auto, cpu, cuda"),
        ("cuda", "PyTorch finds no 'cuda' on this machine"),
        ("cuda:3", "PyTorch finds no 'cuda:3' on this machine"),
        ("mps", "PyTorch finds no 'mps' on this machine"),
        ("meta", "PyTorch finds no 'meta' on this machine"),
    ],
)
def test_a_device_that_is_none_or_not_there_is_refused(project, monkeypatch, name, what):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if ":" in name else 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=rf"^runtime.device: .*{what}"):
        devices(read(project, f"runtime.device={name}"))


@pytest.mark.parametrize(
    ("overrides", "gpus", "places"),
    [
        (["cv.n_folds=5", "runtime.device=auto"], 0, ["cpu"] * 4),
        (["cv.n_folds=3", "runtime.device=auto"], 0, ["cpu"] * 3),
        (["cv.n_folds=5", "runtime.device=cpu", "fold=1"], 2, ["cpu"]),
        (["cv.n_folds=5", "runtime.device=auto"], 2, ["cuda:0", "cuda:1"]),
        (["cv.n_folds=5", "runtime.device=auto", "runtime.jobs=4"], 2, ["cuda:0", "cuda:1"] * 2),
        (["cv.n_folds=5", "runtime.device=auto", "folds=[0]"], 2, ["cuda:0"]),
        (["cv.n_folds=5", "runtime.device=cuda:1"], 2, ["cuda:1"]),
    ],
)
def test_each_job_has_a_device_and_no_fold_is_without_work(project, monkeypatch, overrides, gpus, places):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(src.machine, "cpu_count", lambda: 4)
    jobs = [] if any("jobs" in item for item in overrides) else ["runtime.jobs=null"]
    assert [str(device) for device in devices(read(project, *overrides, *jobs))] == places


def test_a_cpu_job_has_no_loader_processes_unless_asked_for(project):
    assert loader_workers(read(project), CPU) == 0
    assert loader_workers(read(project, "runtime.workers=3"), CPU) == 3


def test_a_compiled_training_ends_with_the_plain_ones_weights_under_their_own_names(prepared, monkeypatch):
    """Everything of torch.compile but the code it would build, which takes a minute."""
    compiled = []
    build = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self: compiled.append(self) or build(self, backend="aot_eager")
    )
    settings = ("model.drop_rate=0", "train.accumulate=2", "train.ema.decay=0.9")
    plain, fast = (make_trainer(prepared, *settings, f"train.compile={on}") for on in ("null", "true"))
    assert compiled == [fast.model]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for trainer in (plain, fast):
        trainer.train_epoch(0, silent)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs
    assert not torch._dynamo.utils.counters["graph_break"]
    for part in ("model", "average"):
        wanted, found = (getattr(trainer, part) for trainer in (plain, fast))
        wanted, found = (x.state_dict() if part == "model" else x.model.state_dict() for x in (wanted, found))
        assert list(found) == list(wanted)
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_without_a_compiler_nothing_is_compiled_on_a_cpu(prepared, monkeypatch):
    monkeypatch.setenv("PATH", str(prepared))
    with pytest.raises(UserError, match=r"train\.compile=true .* install g\+\+ or clang\+\+"):
        make_trainer(prepared, "train.compile=true")
