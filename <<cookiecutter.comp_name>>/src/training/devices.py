"""Devices, mixed precision (AMP), torch.compile, and the number of data loader workers."""

from __future__ import annotations

import shutil

import torch
from torch import nn

from src.config import Config, UserError
from src.machine import cpu_count, jobs_on_cpu

COMPILERS = ("c++", "g++", "clang++")


def devices(config: Config) -> list[torch.device]:
    """The device of each parallel job: one per CUDA device, or the CPU once per job.

    Raises `UserError` for a device that does not exist.
    """
    wanted = config.runtime.device
    if wanted != "auto":
        try:
            device = torch.device(wanted)
        except RuntimeError:
            raise UserError(
                f"runtime.device: {wanted!r} is no device; a good one is auto, cpu, cuda, cuda:1 or mps"
            ) from None
        if not _is_here(device):
            raise UserError(
                f"runtime.device: PyTorch finds no {wanted!r} on this machine; auto takes what is there"
            )
        return [device] * (jobs_on_cpu(config) if device.type == "cpu" else config.runtime.jobs or 1)
    count = torch.cuda.device_count()  # does not initialise CUDA, so that jobs can still fork
    if count:
        jobs = min(config.runtime.jobs or count, len(config.selected_folds))
        return [torch.device("cuda", i % count) for i in range(jobs)]
    if torch.backends.mps.is_available():
        return [torch.device("mps")]
    return [torch.device("cpu")] * jobs_on_cpu(config)


def _is_here(device: torch.device) -> bool:
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())


def loader_workers(config: Config, device: torch.device) -> int:
    """Number of DataLoader worker processes per job.

    It is 0 for a CPU job, whose core they would take, and at most 4 for a GPU job.
    """
    if config.runtime.workers is not None:
        return config.runtime.workers
    return 0 if device.type == "cpu" else min(4, max(1, cpu_count() // len(devices(config)) - 1))


def compile_network(model: nn.Module, device: torch.device) -> None:
    """`torch.compile` the network in place; parameter names do not change, and copies of it are not compiled.

    Raises `UserError` on a CPU without a C++ compiler.
    """
    if device.type == "cpu" and not any(shutil.which(name) for name in COMPILERS):
        raise UserError(
            "train.compile=true builds C++ code for the CPU, and there is no compiler; install g++ or "
            "clang++, or leave it null"
        )
    model.compile()


class Precision:
    """Mixed precision (AMP): bf16 on GPUs that support it, else fp16 with loss scaling (T4), fp32 on CPU."""

    def __init__(self, wanted: str, device: torch.device):
        self.device = device
        if wanted == "auto":
            wanted = "off"
            if device.type == "cuda":
                wanted = "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
        self.dtype = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def autocast(self) -> torch.autocast:
        """Autocast context for the forward pass."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: torch.Tensor) -> None:
        """Backward pass; adds to the gradients of earlier batches."""
        self.scaler.scale(loss).backward()

    def step(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, clip_grad: float | None
    ) -> torch.Tensor:
        """Clip gradients, do the optimiser step, zero gradients; returns the gradient norm before
        clipping."""
        self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if clip_grad is not None:
            nn.utils.clip_grads_with_norm_(model.parameters(), clip_grad, norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return norm
