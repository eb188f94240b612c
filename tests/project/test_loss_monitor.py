"""Losses that break down are found without waiting for the device at every step, and named; losses that stay
where they are get advice too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.config import Train, UserError
from src.models.scale import TargetScale
from src.training import loss_monitor
from src.training.fold import check_trained
from src.training.loss_monitor import LossMonitor, hardly_falls

NAN, INF = float("nan"), float("inf")


def watch_of(batches: int, size: int = 4, **settings) -> LossMonitor:
    rows = [np.arange(size) + number * size for number in range(batches)]
    return LossMonitor(
        2, rows, lambda some: [f"id{row}" for row in some], Train(**settings), torch.device("cpu")
    )


def losses(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


def run(watching: LossMonitor, batches: list[torch.Tensor], norms: list[float], accumulate: int = 1) -> None:
    for number, values in enumerate(batches):
        watching.batch(values, torch.ones(len(values)))
        if (number + 1) % accumulate == 0 or number + 1 == len(batches):
            watching.step(torch.tensor(norms[number // accumulate]))


def test_means_are_weighted_over_rows_and_the_median_over_steps():
    watching = watch_of(2)
    watching.batch(losses(1, 2, 3, 4), torch.tensor([1.0, 1, 1, 1]))
    watching.step(torch.tensor(5.0))
    watching.batch(losses(10, 20), torch.tensor([0.5, 0.25]))
    watching.step(torch.tensor(7.0))
    watching.step(torch.tensor(INF))  # a step that loss scaling in fp16 leaves out
    assert watching.means() == {"train_loss": pytest.approx((10 + 5 + 5) / 4.75), "grad_norm": 7.0}


def test_a_row_that_breaks_is_named_with_its_step_and_the_gradients_before_it():
    watching = watch_of(5, lr=0.01)
    batches = [losses(1, 1, 1, 1)] * 3 + [losses(1, NAN, 1, INF)] + [losses(*[NAN] * 4)]
    run(watching, batches, [1, 2, 40, NAN, NAN])
    with pytest.raises(UserError) as caught:
        watching.means()
    assert str(caught.value) == (
        "epoch 3, step 4: the loss is no longer a number in 2 of 4 rows of batch 4 (id13, id15); gradient "
        "norms of the last steps: 1, 2, 40, nan; look at the targets of these rows; if they are right, lower "
        "train.lr=0.01 to 0.001, or set train.clip_grad=1.0, and run the same command again"
    )


def test_where_all_rows_break_the_rate_is_what_to_change():
    watching = watch_of(2, size=12, lr=0.5)
    run(watching, [losses(*[1] * 12), losses(*[INF] * 12)], [3, 1e30])
    with pytest.raises(UserError) as caught:
        watching.look()
    told = str(caught.value)
    assert "in all 12 rows of batch 2 (id12, id13, id14, id15, id16, id17, id18, id19, ...)" in told
    assert "steps: 3, 1e+30; lower train.lr=0.5 to 0.05, or set train.clip_grad=1.0" in told


def test_a_step_of_several_batches_is_counted_as_one():
    watching = watch_of(6, accumulate=2)
    run(watching, [losses(1, 1, 1, 1)] * 4 + [losses(1, 1, NAN, 1)] * 2, [1, 2, 3], accumulate=2)
    with pytest.raises(UserError, match=r"^epoch 3, step 3: .* of batch 5 \(id18\); .* steps: 1, 2, 3; "):
        watching.look()


def test_the_device_is_waited_for_once_every_fifty_batches(monkeypatch):
    waits, whole = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: (waits.append(1), whole(tensor))[1])
    watching = watch_of(120)
    run(watching, [losses(1, 1, 1, 1)] * 120, [1.0] * 120)
    assert len(waits) == 2
    watching.means()
    assert len(waits) == 4  # the last twenty batches, and the sums


def test_what_breaks_is_found_within_fifty_batches_and_at_its_own_place():
    watching = watch_of(200)
    batches = [losses(1, 1, 1, 1)] * 61 + [losses(NAN, 1, 1, 1)] + [losses(*[NAN] * 4)] * 138
    with pytest.raises(UserError, match=r"^epoch 3, step 62: .* of batch 62 \(id244\)"):
        run(watching, batches, [1.0] * 200)
    assert len(watching.norms) == 100 == 2 * loss_monitor.LOOK_EVERY


def history(*values: float) -> list[dict]:
    return [{"train_loss": value} for value in values]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((2.3, 2.31, 2.30), True),
        ((2.3, 2.29, 2.285), True),
        ((2.3, 2.0, 2.31), False),
        ((2.3, 2.27, 2.1), False),
        ((-0.2, -0.21, -0.3), False),
        ((-0.2, -0.2, -0.2), True),
        ((2.3, 2.31), False),  # too early to say
        ((2.3, 2.31, 2.30, 2.30), False),  # said before
    ],
)
def test_a_loss_that_hardly_falls_in_its_first_epochs_gets_advice_once(values, told):
    found = hardly_falls(history(*values), Train(warmup_epochs=0, lr=1e-4))
    assert (found is not None) == told
    if told:
        assert "raise train.lr=0.0001 to 0.001" in found
        assert "the target is the right one" in found


def test_warm_up_and_a_frozen_backbone_are_waited_for():
    settings = Train(warmup_epochs=1.5, freeze_epochs=2)
    same = history(*[2.3] * 8)
    assert [count for count in range(9) if hardly_falls(same[:count], settings)] == [6]


def test_a_network_whose_loss_or_predictions_are_no_numbers_is_not_kept():
    fine, settings = np.ones((4, 2), np.float32), Train()
    check_trained("fold 0", fine, 0.5, settings)
    check_trained("fold 0", ["no numbers"], 0.5, settings)
    wrong = fine.copy()
    wrong[2] = np.inf
    with pytest.raises(UserError, match=r"fold 0: .* 1 of its predictions are no finite numbers"):
        check_trained("fold 0", wrong, 0.5, settings)
    with pytest.raises(UserError, match=r"lower train.lr=0.0003 to 3e-05"):
        check_trained("fold 0", fine, float("nan"), settings)


def test_targets_that_became_infinite_are_no_scale():
    with pytest.raises(UserError, match="beyond single precision"):
        TargetScale.of(np.array([[1.0], [np.inf]], np.float32), log=False)
