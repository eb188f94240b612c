"""Weight averaging: EMA after each step, SWA after each epoch. The averaged weights are scored and kept."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from src.config import Ema, Train
from src.training.schedule import cycle_ends, swa_start


class Average:
    """EMA (exponential moving average) of the weights, by timm with decay warm-up; the model itself if EMA is
    off.

    Batch-norm statistics are averaged too. Without the warm-up an EMA with decay 0.9999 still consists of 95
    % initial weights after 500 steps.
    """

    def __init__(self, model: nn.Module, settings: Ema):
        self.live = model
        self.ema = ModelEmaV3(model, decay=settings.decay, use_warmup=True) if settings.enabled else None
        self.steps = 0

    @property
    def model(self) -> nn.Module:
        """The network to evaluate and to save."""
        return self.live if self.ema is None else self.ema.module

    def update(self) -> None:
        """Update the EMA after an optimiser step."""
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
    """SWA (stochastic weight averaging), by PyTorch: the mean of the weights after each of the last epochs or
    cycles (Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better Generalization).

    Its batch-norm statistics are those of a single epoch: recompute them before use (`update_batch_norms`).
    """

    def __init__(self, model: nn.Module, settings: Train):
        self.average = AveragedModel(model)
        ends = cycle_ends(settings) if (settings.cycles or 1) > 1 else range(1, settings.epochs + 1)
        self.ends = {epoch for epoch in ends if epoch > swa_start(settings)}

    @property
    def model(self) -> nn.Module:
        """The averaged network."""
        return self.average.module

    def take(self, model: nn.Module, epoch: int) -> None:
        """Add the weights after an epoch (0-based) to the average, if the epoch is one of `ends`."""
        if epoch + 1 in self.ends:
            self.average.update_parameters(model)

    def state_dict(self) -> dict:
        return self.average.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.average.load_state_dict(state)


def copy_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A detached copy of a model's state dict."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
