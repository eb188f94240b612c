"""Averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from src.config import Ema
from src.training.averaging import Average, copy_state


class Small(nn.Module):
    def __init__(self, value: float):
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)
        nn.init.constant_(self.layer.weight, value)

    def set(self, value: float) -> None:
        nn.init.constant_(self.layer.weight, value)
        self.norm.running_mean.fill_(value)
        self.norm.num_batches_tracked.fill_(int(value))


def test_after_twenty_steps_at_a_decay_of_9999_little_of_where_it_started_is_left():
    model = Small(0.0)
    average = Average(model, Ema(decay=0.9999))
    average.update()  # timm copies the weights of the first step, as good as random
    model.set(1.0)
    for _ in range(19):
        average.update()
    assert average.model.layer.weight.min() > 0.99  # 0.002 without the warm-up


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_is_the_warmed_up_closed_form_for_weights_and_batch_norm_statistics(decay):
    model, expected = Small(5.0), 5.0
    average = Average(model, Ema(decay=decay))
    for step in range(1, 31):
        model.set(float(step))
        average.update()
        keep = min(decay, 1 - step ** (-2 / 3))  # timm's warm-up; 0 at the first step
        expected = keep * expected + (1 - keep) * step
    assert average.model.layer.weight.mean().item() == pytest.approx(expected, rel=1e-5)
    assert average.model.norm.running_mean.mean().item() == pytest.approx(expected, rel=1e-5)
    assert average.model.norm.num_batches_tracked.item() == 30  # a whole number is copied
    assert model.layer.weight.mean().item() == 30  # the live weights are left alone


def test_a_switched_off_average_is_the_live_network():
    model = Small(0.0)
    average = Average(model, Ema(enabled=False))
    model.set(2.0)
    average.update()
    assert average.model is model
    assert average.state_dict() == {"steps": 1, "ema": None}


def test_an_average_goes_on_from_its_state_as_if_never_interrupted():
    def run(interrupted: bool) -> torch.Tensor:
        model = Small(0.0)
        average = Average(model, Ema(decay=0.9))
        for step in range(1, 9):
            if interrupted and step == 5:
                state, average = average.state_dict(), Average(model, Ema(decay=0.9))
                average.load_state_dict(state)
            model.set(float(step))
            average.update()
        return average.model.layer.weight.detach()

    assert torch.equal(run(True), run(False))


def test_a_copied_state_is_not_changed_by_later_steps():
    model = Small(1.0)
    state = copy_state(model)
    model.set(9.0)
    assert state["layer.weight"].unique().tolist() == [1.0]
