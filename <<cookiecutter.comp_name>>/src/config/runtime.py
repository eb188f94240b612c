"""Submission, experiment tracking, and how a run uses the machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.section import Count, Index, Name, Section


class Submit(Section):
    source: str = "stack"
    """What stage 06 submits: `stack`, or `run:<name>`."""

    name: Name | None = None
    """File name below `submissions/`. `null`: that of the source."""


class Tracking(Section):
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases: `auto` is online with an API key and offline otherwise; `disabled` switches it
    off."""

    project: str | None = None
    """wandb project. `null`: the competition's slug."""


class Runtime(Section):
    """How, not what: nothing here changes a result, so nothing here makes an artefact stale."""

    device: str = "auto"
    """Device: `auto` takes every CUDA device, else mps, else the CPU."""

    jobs: Count | None = None
    """Folds trained in parallel. `null`: one per device, or one per core on a CPU."""

    threads: Count | None = None
    """Threads per process. `null`: cores / jobs."""

    workers: Index | None = None
    """Loader processes per job. `null`: none on a CPU, up to 4 on a GPU."""

    save_minutes: Annotated[float, Field(ge=0)] | None = 10
    """Minutes between checkpoints within an epoch. `null`: only at the end of epochs."""

    retries: Index = 2
    """How often a fold whose process was killed is started again; more would meet the same lack of memory."""
