"""The training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.losses import Losses
from src.config.optim import Optim
from src.config.section import Count, Section


class EarlyStopping(Section):
    enabled: bool = True  # false: all epochs, the last weights, and no rows set aside for stopping
    patience: Count = 5  # epochs without a better score


class Ema(Section):
    enabled: bool = True
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999  # warmed up, else the random start stays


class Train(Losses, Optim):
    """How a model is trained: the loop here, losses and optimisation in their own files."""

    epochs: Count = 15
    batch_size: Annotated[int, Field(ge=2)] = 32
    accumulate: Count = 1  # batches a step
    sampling: Literal["balanced", "sqrt"] | None = None  # rare classes more often; null: rows as they come
    images_per_class: Annotated[int, Field(ge=2)] = 4  # of a triplet's batch: batch_size / this identities
    target_log: bool = False  # learn log(1 + target): for counts and prices, whose tails are heavy
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"  # bf16 where the GPU has it, else fp16; off on CPU
    channels_last: bool = True  # 0.68 to 1.24 times the time, by network; most gain
    early_stopping: EarlyStopping = EarlyStopping()
    ema: Ema = Ema()
