"""Distributed training (DDP): several processes train one model, one process per GPU.

It is plain DistributedDataParallel under `torchrun`, on one or more machines (Li et al. 2020, PyTorch
Distributed). Each rank takes its part of every batch, batch norms are synchronised, and losses are divided by
the whole batch's weight, so the trained weights match those of a single process for any number of processes.
Only mixup and CutMix differ: they pair images within a rank's part. Rank 0 alone writes files. Without
torchrun there is one rank, and this module changes nothing.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from src.config import Config, UserError

LIMIT = timedelta(minutes=30)  # timeout of the rendezvous and of each collective operation


@dataclass(frozen=True)
class World:
    """This process in the process group: `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes the files."""
        return self.rank == 0

    def part(self, n: int, rank: int | None = None) -> slice:
        """The slice of `n` consecutive items for this rank: a partition with sizes that differ by at most
        one."""
        rank = self.rank if rank is None else rank
        return slice(n * rank // self.size, n * (rank + 1) // self.size)

    def gather(self, said: Any) -> list[Any]:
        """All-gather of a Python object: the objects of all ranks, in rank order. It waits for all ranks."""
        if self.size == 1:
            return [said]
        all_said = [None] * self.size
        dist.all_gather_object(all_said, said)
        return all_said

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """All-reduce: the sum over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


SINGLE_PROCESS = World()


def is_one_of_several() -> bool:
    """Whether torchrun started this process together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(config: Config) -> tuple[World, torch.device]:
    """Join the process group; returns this process's `World` and its device.

    Raises `UserError` for features that need the whole batch in one process, for more processes than GPUs,
    and if the other processes do not join within the timeout.
    """
    check_world(config)
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    cuda = config.runtime.device != "cpu" and torch.cuda.device_count() > 0
    if cuda and local >= torch.cuda.device_count():
        raise UserError(
            f"GPUS is more than the {torch.cuda.device_count()} GPU(s) of this machine; lower it, or set "
            f"runtime.device=cpu to try it on the CPU"
        )
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if cuda else "gloo", timeout=LIMIT)
        except RuntimeError as error:  # a process failed, was not started, or uses another address
            first = str(error).strip().splitlines()[0][:200]
            raise UserError(
                f"process {rank} of {size}: the others did not come ({first}); see what they say, and "
                f"whether all were started with the same number and place to meet"
            ) from error
    return World(rank, size), device


def check_world(config: Config) -> None:
    """Raise `UserError` for settings that would train differently on several GPUs than on one."""
    train = config.train
    whole = {
        "train.top_share": train.top_share is not None,
        "train.center_weight": bool(train.center_weight),
        "train.margin.triplet_weight": train.triplet_weight(config.task.name) > 0,
        "a retrieval task": config.task.name == "retrieval",
        "consistency": config.consistency is not None,
    }
    if train.compile:
        raise UserError(
            "train.compile is for one device; leave it null here, or train one model a GPU (leave GPUS out)"
        )
    found = [name for name, on in whole.items() if on]
    if found:
        raise UserError(
            f"{found[0]} looks at a whole batch, of which each GPU sees a part; train one model a GPU (leave "
            f"GPUS out), or switch it off"
        )


class SumOverRanks(torch.autograd.Function):
    """Differentiable all-reduce: sums values in the forward pass and gradients in the backward pass."""

    @staticmethod
    def forward(_, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(_, gradient: torch.Tensor) -> torch.Tensor:
        return SumOverRanks.forward(_, gradient)


def sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Convert batch norms to synchronised ones (SyncBatchNorm), whose statistics cover all ranks."""
    if device.type == "cuda":
        return convert_sync_batchnorm(model)  # torch's own converter drops the activation of timm's norms
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = SyncedBatchNormAct if isinstance(module, BatchNormAct2d) else SyncedBatchNorm
    return model


class SyncedBatchNorm(_BatchNorm):
    """SyncBatchNorm for the CPU, where PyTorch has none: the same arithmetic with all-reduce sums."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Accept any number of dimensions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) normalised with the statistics of all ranks' rows; a rank may have no rows."""
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        dims, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        count = x.new_full((1,), x.numel() / x.shape[1])
        total = SumOverRanks.apply(torch.cat([x.sum(dims), count]))
        mean, count = total[:-1] / total[-1], total[-1].detach()
        centred = x - mean.view(shape)
        variance = SumOverRanks.apply(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), rate)
        scaled = centred * (variance + self.eps).rsqrt().view(shape)
        return scaled if self.weight is None else scaled * self.weight.view(shape) + self.bias.view(shape)


class SyncedBatchNormAct(SyncedBatchNorm):
    """`SyncedBatchNorm` for timm's norm layers with a built-in activation (BatchNormAct2d)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


class DistributedModel:
    """DDP wrapper: gradients are averaged over the ranks when an optimiser step is due."""

    def __init__(self, model: nn.Module, world: World, device: torch.device):
        self.model, self.world, self.device = model, world, device
        self.wrapped: nn.Module = model
        self.learning: list[bool] | None = None

    def begin(self) -> None:
        """Call before every epoch: wraps the model again if the set of trainable parameters has changed."""
        if self.world.size == 1:
            return
        learning = [p.requires_grad for p in self.model.parameters()]
        if learning != self.learning:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(self.model, device_ids=ids, broadcast_buffers=False)
            self.learning = learning

    def __call__(self, images: torch.Tensor) -> Any:
        return self.wrapped(images)

    def unless(self, due: bool) -> contextlib.AbstractContextManager:
        """Context for forward and backward pass: gradients are not synchronised (`no_sync`) unless `due`."""
        if due or self.world.size == 1:
            return contextlib.nullcontext()
        return self.wrapped.no_sync()
