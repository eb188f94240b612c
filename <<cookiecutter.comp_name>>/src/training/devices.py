"""Devices, mixed precision, and how many processes to use."""

from __future__ import annotations

import shutil

import torch
from torch import nn

from src.config import Config, UserError
from src.machine import cpu_count, jobs_on_cpu

COMPILERS = ("c++", "g++", "clang++")


def devices(config: Config) -> list[torch.device]:
    """The device of each job, in turn: every CUDA device, or one place on the CPU a job."""
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
    count = torch.cuda.device_count()  # asks the driver without starting CUDA, so that forked jobs may
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
    """Loader processes for one job: none beside a CPU job (it would steal the core), up to four beside a
    GPU."""
    if config.runtime.workers is not None:
        return config.runtime.workers
    return 0 if device.type == "cpu" else min(4, max(1, cpu_count() // len(devices(config)) - 1))


def compile_network(model: nn.Module, device: torch.device) -> None:
    """Have `torch.compile` make the network's passes, in place: its weights keep their names, and copies of
    it are not compiled. Raises `UserError` where the CPU's code cannot be built."""
    if device.type == "cpu" and not any(shutil.which(name) for name in COMPILERS):
        raise UserError(
            "train.compile=true builds C++ code for the CPU, and there is no compiler; install g++ or "
            "clang++, or leave it null"
        )
    model.compile()


class Precision:
    """Mixed precision where it helps: bf16 where the GPU has it, fp16 with loss scaling on a T4, plain on a
    CPU."""

    def __init__(self, wanted: str, device: torch.device):
        self.device = device
        if wanted == "auto":
            wanted = "off"
            if device.type == "cuda":
                wanted = "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
        self.dtype = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def autocast(self) -> torch.autocast:
        """Context for the forward pass."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: torch.Tensor) -> None:
        """Add this batch's gradients."""
        self.scaler.scale(loss).backward()

    def step(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, clip_grad: float | None
    ) -> torch.Tensor:
        """Clip, step, and forget the gradients; gives their norm before the clipping."""
        self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if clip_grad is not None:
            nn.utils.clip_grads_with_norm_(model.parameters(), clip_grad, norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return norm
