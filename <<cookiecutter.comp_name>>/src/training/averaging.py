"""Which weights are scored and kept: an average of the trained ones, each step (EMA) or each epoch (SWA)."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from src.config import Ema, Train
from src.training.schedule import cycle_ends, swa_start


class Average:
    """EMA of parameters and of batch-norm statistics by timm, warmed up; or the model itself when it is
    switched off.

    Without a warm-up a decay of 0.9999 is still 95 % random start after 500 steps.
    """

    def __init__(self, model: nn.Module, settings: Ema):
        self.live = model
        self.ema = ModelEmaV3(model, decay=settings.decay, use_warmup=True) if settings.enabled else None
        self.steps = 0

    @property
    def model(self) -> nn.Module:
        """The network to score and to keep."""
        return self.live if self.ema is None else self.ema.module

    def update(self) -> None:
        """Take in the weights after an optimiser step."""
        self.steps += 1
        if self.ema is not None:
            self.ema.update(self.live, step=self.steps)

    def state_dict(self) -> dict:
        return {"steps": self.steps, "ema": None if self.ema is None else self.ema.module.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.steps = state["steps"]
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])


class StochasticAverage:
    """SWA by torch: the plain mean of the weights at the ends of the last epochs, or of their cosine cycles
    (Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better Generalization).

    Its batch norms hold one epoch's statistics: measure them before it is used.
    """

    def __init__(self, model: nn.Module, settings: Train):
        self.average = AveragedModel(model)
        ends = cycle_ends(settings) if (settings.cycles or 1) > 1 else range(1, settings.epochs + 1)
        self.ends = {epoch for epoch in ends if epoch > swa_start(settings)}

    @property
    def model(self) -> nn.Module:
        return self.average.module

    def take(self, model: nn.Module, epoch: int) -> None:
        """Take in the weights after an epoch (0 first), where it is one of those that count."""
        if epoch + 1 in self.ends:
            self.average.update_parameters(model)

    def state_dict(self) -> dict:
        return self.average.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.average.load_state_dict(state)


def copy_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's weights that later steps do not change."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
