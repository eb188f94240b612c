"""Several processes that train one model: the weights are those of one process with the whole batch."""

from __future__ import annotations

import multiprocessing
import os
import socket
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pytest
import torch
from trainers import CPU, fold_data, read, silent

from src.config import UserError
from src.data.loaders import EpochSampler
from src.tasks import create_task
from src.training.distributed import SINGLE_PROCESS, SyncedBatchNorm, World, check_world, join
from src.training.trainer import Trainer

# SGD: Adam divides gradients of 1e-8 by themselves, and makes 1e-10 of the last bit of a sum
EXACT = (
    "train.optimizer=sgd",
    "train.lr=0.05",
    "train.batch_size=7",
    "train.accumulate=2",
    "train.epochs=2",
    "augment.rotate=20",
    "augment.cutout=0.5",
)


def in_doubles(trainer: Trainer) -> Trainer:
    """Its network and numbers in float64, where rounding cannot hide a mistake."""
    trainer.model.double()
    trainer.average.ema.module.double()
    shown = trainer.prepare_batch

    def show(*batch):
        return tuple(x.double() if x.is_floating_point() else x for x in shown(*batch))

    trainer.prepare_batch = show
    return trainer


def one_rank(project: Path, overrides: tuple[str, ...], rank: int, size: int, port: int) -> dict:
    """What a process has after its training."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    config = read(project, *EXACT, *overrides)
    world = join(config)[0] if size > 1 else SINGLE_PROCESS
    data = fold_data(config)
    trainer = in_doubles(Trainer(config, create_task(config), data, data.train, 0, CPU, world=world))
    trainer.stop = type(data.stop)(
        data.stop.positions, np.asarray(data.stop.targets, float), data.stop.weights
    )
    for epoch in range(2):
        trainer.train_epoch(epoch, silent)
    norms = sum(isinstance(module, SyncedBatchNorm) for module in trainer.model.modules())
    states = {"live": trainer.model.state_dict(), "average": trainer.average.model.state_dict()}
    for row in trainer.history:
        row.pop("seconds")
    return {"states": states, "history": trainer.history, "shared norms": norms}


def trained(project: Path, overrides: tuple[str, ...], size: int, folder: Path) -> list[dict]:
    """What each of `size` processes has, forked so that the imports are paid once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def work(rank: int) -> None:
        torch.save(one_rank(project, overrides, rank, size, port), folder / f"{size}-{rank}.pt")

    children = [
        multiprocessing.get_context("fork").Process(target=work, args=(rank,)) for rank in range(size)
    ]
    for child in children:
        child.start()
    left = {child.sentinel: child for child in children}
    while left and not any(child.exitcode for child in children):
        for sentinel in wait(left):
            left.pop(sentinel).join()
    for child in left.values():  # one has failed, and they would wait for it for half an hour
        child.kill()
        child.join()
    assert [child.exitcode for child in children] == [0] * size
    return [torch.load(folder / f"{size}-{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.mark.parametrize(
    "backbone", ["test_resnet", "test_efficientnet"]
)  # norms, and norms with activations
def test_two_processes_have_the_weights_of_one_with_twice_the_batch(prepared, tmp_path, backbone):
    """Seven rows a batch are four and three; the last window is one batch of three."""
    overrides = (f"model.backbone={backbone}",)
    (one,) = trained(prepared, overrides, 1, tmp_path)
    both = trained(prepared, overrides, 2, tmp_path)
    assert one["shared norms"] == 0
    for other in both:
        assert other["shared norms"] > 3
        for kind, state in one["states"].items():
            assert state.keys() == other["states"][kind].keys()
            for name, tensor in state.items():
                apart = (tensor.double() - other["states"][kind][name].double()).abs().max()
                assert apart < 1e-10, (kind, name)
        for row, its in zip(one["history"], other["history"], strict=True):
            assert its == pytest.approx(row, abs=1e-6)  # losses are summed in single precision


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_ranks_share_every_batch_and_every_row_without_one_twice(size):
    for n in range(0, 30):
        parts = [World(rank, size).part(n) for rank in range(size)]
        assert np.concatenate([np.arange(n)[part] for part in parts]).tolist() == list(range(n))
        lengths = [part.stop - part.start for part in parts]
        assert max(lengths) - min(lengths) <= 1
    whole = EpochSampler(30, 7, seed=3)
    ranks = [EpochSampler(30, 7, seed=3, part=(rank, size)) for rank in range(size)]
    for rows, *items in zip(whole.batches(), *ranks, strict=True):
        assert np.array_equal(np.concatenate([item[1] for item in items]), rows)
        assert len({item[0] for item in items}) == 1  # one seed for the batch


@pytest.mark.parametrize("override", ["train.top_share=0.5", "consistency={}", "train.center_weight=0.01"])
def test_what_looks_at_a_whole_batch_is_refused(prepared, override):
    with pytest.raises(UserError, match="looks at a whole batch, of which each GPU sees a part"):
        check_world(read(prepared, override))


def test_torch_compile_is_refused_and_not_left_out_in_silence(prepared):
    with pytest.raises(UserError, match=r"train\.compile is for one device"):
        check_world(read(prepared, "train.compile=true"))


def test_others_that_do_not_come_are_said_in_a_sentence(prepared, monkeypatch):
    def wait(*_, timeout):
        assert timeout.total_seconds() > 0
        raise torch.distributed.DistStoreError(
            "Timed out after 1801 seconds waiting for clients. 1/2 joined."
        )

    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.distributed, "init_process_group", wait)
    with pytest.raises(UserError, match=r"process 1 of 2: .*Timed out"):
        join(read(prepared))
