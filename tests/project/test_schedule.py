"""The learning rate over time: every shape against torch's own scheduler, or against its formula."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as torchs

from src.config import EarlyStopping, Ema, Swa, Train
from src.training.schedule import Schedule, create_curve, cycle_ends, front_of


def train(**settings) -> Train:
    return Train(**{"lr": 0.2, "min_lr": 0.002, "warmup_epochs": 0, "ema": Ema(enabled=False)} | settings)


def optimizer_of(*rates: float, kind=torch.optim.SGD, **options) -> torch.optim.Optimizer:
    return kind([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates], **options)


def rates(settings: Train, steps: int, more: int = 0) -> np.ndarray:
    """The rate of every optimiser step, of `steps` an epoch, and of `more` past the end."""
    optimizer = optimizer_of(settings.lr)
    schedule, seen = Schedule(optimizer, settings, steps), []
    for _ in range(settings.epochs * steps + more):
        seen.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    return np.array(seen)


def torchs_rates(create, count: int, lr: float = 0.2) -> np.ndarray:
    optimizer = optimizer_of(lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule, seen = create(optimizer), []
        for _ in range(count):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    return np.array(seen)


# --- shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "steps"), [(1, 40), (7, 3), (20, 5)])
def test_a_cosine_is_torchs_and_ends_at_the_floor(epochs, steps):
    total = epochs * steps
    expected = torchs_rates(lambda o: torchs.CosineAnnealingLR(o, T_max=total - 1, eta_min=0.002), total)
    found = rates(train(epochs=epochs), steps)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (found[0], found[-1]) == (0.2, pytest.approx(0.002))


def test_past_the_end_every_schedule_stays_where_torchs_cosine_rises_again_and_its_one_cycle_raises():
    torchs_own = torchs_rates(lambda o: torchs.CosineAnnealingLR(o, T_max=20), 31)
    assert torchs_own[30] > 0.08
    with pytest.raises(ValueError, match="Tried to step"):
        torchs_rates(lambda o: torchs.OneCycleLR(o, max_lr=0.2, total_steps=20), 31)
    for name, more in EVERY.items():
        if name != "plateau":
            found = rates(train(epochs=4, **more), 5, more=30)
            assert (found[20:] == found[19]).all(), name


def test_cycles_are_torchs_cosine_once_each_with_a_falling_peak():
    settings = train(epochs=12, cycles=3, cycle_decay=0.5)
    assert cycle_ends(settings) == [4, 8, 12]
    found = rates(settings, 5)
    for cycle, peak in enumerate((0.2, 0.1, 0.05)):
        expected = torchs_rates(lambda o: torchs.CosineAnnealingLR(o, T_max=19, eta_min=0.002), 20, lr=peak)
        np.testing.assert_allclose(found[cycle * 20 : cycle * 20 + 20], expected, rtol=1e-9)


def test_warm_restarts_start_where_torchs_do():
    found = rates(train(epochs=9, cycles=3), 10)
    expected = torchs_rates(lambda o: torchs.CosineAnnealingWarmRestarts(o, T_0=30, eta_min=0.002), 90)
    assert np.flatnonzero(np.diff(found) > 0).tolist() == np.flatnonzero(np.diff(expected) > 0).tolist()
    np.testing.assert_allclose(found, expected, atol=0.2 * math.pi / 30)  # torch's never reaches its floor


@pytest.mark.parametrize(
    ("epochs", "warmup", "cycles", "ends"),
    [(15, 1, 3, [6, 10, 15]), (10, 0.5, 4, [3, 5, 8, 10]), (7, 0, 7, [1, 2, 3, 4, 5, 6, 7]), (9, 2, 1, [9])],
)
def test_every_cycle_ends_with_an_epoch(epochs, warmup, cycles, ends):
    settings = train(epochs=epochs, warmup_epochs=warmup, cycles=cycles)
    assert cycle_ends(settings) == ends
    found = rates(settings, 6)
    assert found[[end * 6 - 1 for end in ends]] == pytest.approx([0.002] * cycles)
    assert found[[end * 6 for end in ends[:-1]]] == pytest.approx([0.2] * (cycles - 1))


def test_a_step_schedule_is_torchs_multi_step():
    found = rates(train(epochs=10, schedule="step", steps=[4, 7.5], lr_decay=0.3, min_lr=0), 6)
    expected = torchs_rates(lambda o: torchs.MultiStepLR(o, milestones=[24, 45], gamma=0.3), 60)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert rates(train(epochs=10, schedule="step", steps=[4, 7.5]), 6)[-1] == pytest.approx(0.002)


def test_a_step_schedule_takes_the_rates_it_is_given():
    settings = train(
        lr=5e-4, min_lr=1e-6, epochs=6, schedule="step", steps=[2, 3, 5], step_lrs=[1e-4, 1e-5, 1e-6]
    )
    assert rates(settings, 2) == pytest.approx([5e-4] * 4 + [1e-4] * 2 + [1e-5] * 4 + [1e-6] * 2, rel=1e-9)


def test_a_piecewise_schedule_goes_in_lines_through_its_points():
    settings = train(
        epochs=8, schedule="piecewise", steps=[2, 5], step_lrs=[0.4, 0.1], warmup_epochs=1, min_lr=0
    )
    expected = [0.05, 0.1, 0.15]  # warm-up of three steps, and then
    expected += [0.2, 0.2 + 0.2 / 3, 0.2 + 0.4 / 3]
    expected += [0.4 - 0.3 * i / 9 for i in range(9)]
    expected += [0.1] * 9
    np.testing.assert_allclose(rates(settings, 3), expected, rtol=1e-9)


def test_an_exponential_schedule_is_torchs_a_step_at_a_time():
    found = rates(train(epochs=5, schedule="exponential", lr_decay=0.6, min_lr=0.03), 4)
    expected = torchs_rates(lambda o: torchs.ExponentialLR(o, gamma=0.6**0.25), 20)
    np.testing.assert_allclose(found, np.maximum(expected, 0.03), rtol=1e-9)
    assert found[-1] == pytest.approx(0.03)


def test_an_exponential_schedule_without_a_factor_ends_at_the_floor():
    found = rates(train(epochs=5, schedule="exponential"), 4)
    np.testing.assert_allclose(found[1:] / found[:-1], 0.01 ** (1 / 19), rtol=1e-9)
    assert found[-1] == pytest.approx(0.002)


@pytest.mark.parametrize(("decay", "k"), [(None, 0.5), (0.25, 0.25)])
def test_an_inverse_time_schedule_is_its_formula_in_epochs(decay, k):
    found = rates(train(epochs=6, schedule="inverse_time", lr_decay=decay), 5)
    np.testing.assert_allclose(found, 0.2 / (1 + k * np.arange(30) / 5), rtol=1e-9)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize(("epochs", "steps"), [(10, 10), (4, 7)])
def test_one_cycle_is_torchs_in_rate_and_momentum(epochs, steps, kind):
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    pair = [optimizer_of(0.2, kind=kind, **options) for _ in range(2)]
    settings, total = train(epochs=epochs, schedule="onecycle"), epochs * steps
    ours = Schedule(pair[0], settings, steps)
    theirs = torchs.OneCycleLR(pair[1], max_lr=0.2, total_steps=total, final_div_factor=4)  # 0.2 / 25 / 4
    key = "momentum" if options else "betas"
    for number in range(total):
        found, expected = (optimizer.param_groups[0] for optimizer in pair)
        assert found["lr"] == pytest.approx(expected["lr"], rel=1e-6)
        assert found[key] == pytest.approx(expected[key])
        ours.step()
        pair[1].step()
        if number + 1 < total:
            theirs.step()


def test_a_constant_rate_is_constant():
    assert set(rates(train(epochs=3, schedule="constant"), 4)) == {0.2}


# --- plateau ------------------------------------------------------------------------------------------------


def watched(scores: list[float], sign: int, **settings) -> list[float]:
    """The rate after each epoch of two steps."""
    optimizer = optimizer_of(0.2)
    schedule = Schedule(optimizer, train(epochs=20, schedule="plateau", **settings), 2, sign)
    seen = []
    for score in scores:
        schedule.step()
        schedule.step()
        schedule.look(score)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


@pytest.mark.parametrize("sign", [1, -1])
def test_a_plateau_lowers_the_rate_after_four_epochs_without_a_better_score_and_not_on_the_next_one(sign):
    scores = [sign * score for score in (0.5, 0.6, 0.6, 0.55, 0.6, 0.6, 0.6, 0.61, 0.61)]
    found = watched(scores, sign)
    assert found == pytest.approx([0.2] * 6 + [0.02] * 3)
    optimizer = optimizer_of(0.2)
    own = torchs.ReduceLROnPlateau(optimizer, "max" if sign > 0 else "min", patience=4, threshold=0)
    for score, rate in zip(scores, found, strict=True):
        own.step(score)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_a_plateau_has_its_own_patience_and_factor_and_falls_to_the_floor():
    found = watched([0.5] * 10, 1, plateau_patience=1, lr_decay=0.5, min_lr=0.03)
    assert found == pytest.approx([0.2, 0.2, 0.1, 0.1, 0.05, 0.05, 0.03, 0.03, 0.03, 0.03])


def test_a_score_that_is_no_number_is_no_better_one():
    assert watched([0.5, *[math.nan] * 5], 1) == pytest.approx([0.2] * 5 + [0.02])


def test_a_plateau_lowers_a_rate_that_is_being_warmed_up_too():
    optimizer = optimizer_of(0.2)
    schedule = Schedule(
        optimizer, train(epochs=9, schedule="plateau", plateau_patience=1, warmup_epochs=3), 1
    )
    seen = []
    for _ in range(5):
        schedule.step()
        schedule.look(0.5)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.1, 0.15, 0.02, 0.02, 0.002])


# --- what comes before and after ----------------------------------------------------------------------------

EVERY = {  # one of each, to hold rules that are the same for all
    "constant": {"schedule": "constant"},
    "cosine": {"schedule": "cosine"},
    "cycles": {"schedule": "cosine", "cycles": 2, "cycle_decay": 0.5},
    "step": {"schedule": "step", "steps": [2.5, 3]},
    "plateau": {"schedule": "plateau", "early_stopping": EarlyStopping(patience=None)},
    "onecycle": {"schedule": "onecycle"},
    "exponential": {"schedule": "exponential"},
    "inverse_time": {"schedule": "inverse_time"},
    "piecewise": {"schedule": "piecewise", "steps": [2.5, 3], "step_lrs": [0.1, 0.05]},
}


@pytest.mark.parametrize("name", EVERY)
def test_any_schedule_is_warmed_up_in_a_line_and_held_and_then_runs_its_course(name):
    settings = train(epochs=4, warmup_epochs=1, hold_epochs=0.6, **EVERY[name])
    assert front_of(settings, 5) == (0, 5, 3)
    found, alone = rates(settings, 5), create_curve(settings, 5)(8) * 0.2
    np.testing.assert_allclose(found[:5], alone * np.arange(1, 6) / 6, rtol=1e-9)
    np.testing.assert_allclose(found[5:9], alone, rtol=1e-9)
    assert alone == pytest.approx(0.2 / 25 if name == "onecycle" else 0.2)
    if name not in ("constant", "plateau"):
        assert (np.diff(found[8:]) != 0).any()


@pytest.mark.parametrize("name", ["cosine", "onecycle", "exponential", "inverse_time"])
def test_after_warm_up_a_schedule_is_what_it_is_alone_in_the_epochs_that_are_left(name):
    warmed = rates(train(epochs=6, warmup_epochs=1, hold_epochs=1, **EVERY[name]), 5)
    np.testing.assert_allclose(warmed[10:], rates(train(epochs=4, **EVERY[name]), 5), rtol=1e-9)


def test_warm_up_and_hold_are_torchs_in_sequence():
    def create(optimizer):
        warm = torchs.LinearLR(optimizer, start_factor=1 / 6, total_iters=5)
        hold = torchs.ConstantLR(optimizer, factor=1.0)
        fall = torchs.CosineAnnealingLR(optimizer, T_max=11, eta_min=0.002)
        return torchs.SequentialLR(optimizer, [warm, hold, fall], milestones=[5, 8])

    found = rates(train(epochs=4, warmup_epochs=1, hold_epochs=0.6), 5)
    np.testing.assert_allclose(found, torchs_rates(create, 20), rtol=1e-9)


@pytest.mark.parametrize(
    ("settings", "steps", "peak_at"),
    [
        ({"epochs": 4, "warmup_epochs": 1.0}, 5, 5),
        ({"epochs": 4, "warmup_epochs": 0.5}, 10, 5),
        ({"epochs": 3, "warmup_epochs": 0}, 5, 0),
        ({"epochs": 1, "warmup_epochs": 1.0}, 5, 4),  # a warm-up as long as the training still peaks
        ({"epochs": 1, "warmup_epochs": 3.0}, 1, 0),
    ],
)
def test_the_peak_itself_is_reached(settings, steps, peak_at):
    found = rates(train(**settings), steps)
    assert np.argmax(found) == peak_at
    assert found.max() == pytest.approx(0.2)
    if peak_at < len(found) - 1:
        assert found[-1] == pytest.approx(0.002)


def test_a_head_alone_learns_at_the_peak_and_the_thaw_is_warmed_up():
    found = rates(train(epochs=5, freeze_epochs=2, warmup_epochs=1), 4)
    assert found[:8].tolist() == [0.2] * 8
    np.testing.assert_allclose(found[8:], rates(train(epochs=3, warmup_epochs=1), 4), rtol=1e-9)


def test_groups_keep_their_distance_where_torchs_floor_would_lift_the_lowest():
    optimizer = optimizer_of(0.2, 0.2 * 0.003)
    schedule = Schedule(optimizer, train(epochs=3, warmup_epochs=1), 5)
    for _ in range(15):
        head, stem = (group["lr"] for group in optimizer.param_groups)
        assert stem == pytest.approx(0.003 * head)
        assert schedule.rate == head
        schedule.step()
    low = optimizer_of(0.0006)
    own = torchs.CosineAnnealingLR(low, T_max=15, eta_min=0.002)
    for _ in range(15):
        low.step()
        own.step()
    assert own.get_last_lr()[0] == pytest.approx(0.002)  # more than three times the peak of that group


@pytest.mark.parametrize("anneal", [None, 2])
def test_swa_goes_in_a_line_to_its_own_rate_and_stays_as_torchs_does(anneal):
    settings = train(epochs=8, schedule="constant", swa=Swa(start=0.5, lr=0.05, anneal_epochs=anneal))
    found, count = rates(settings, 3, more=5), (anneal or 0) * 3
    assert found[:12] == pytest.approx([0.2] * 12)
    optimizer = optimizer_of(0.2)
    own = torch.optim.swa_utils.SWALR(
        optimizer, swa_lr=0.05, anneal_epochs=max(count, 1), anneal_strategy="linear"
    )
    expected = []
    for _ in range(17):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        own.step()
    first = 0 if anneal else 1  # at once: from the first step on
    np.testing.assert_allclose(found[12:], [*expected[first:], *[0.05] * first], rtol=1e-9)
    assert found[12 + count :] == pytest.approx([0.05] * (17 - count))


def test_swa_without_a_rate_of_its_own_leaves_the_schedule_alone():
    plain = rates(train(epochs=4), 5)
    assert (rates(train(epochs=4, swa=Swa(start=0.5)), 5) == plain).all()


# --- going on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("killed_after", [3, 7])
def test_every_schedule_goes_on_bit_for_bit_from_its_state(name, kind, killed_after):
    settings = train(epochs=8, warmup_epochs=1, hold_epochs=1, freeze_epochs=None, **EVERY[name])
    scores = np.random.default_rng(0).uniform(size=16)
    scores[:7] = 1.0  # the rate falls after epoch 6: the plateau is under way, or behind it

    def run(optimizer: torch.optim.Optimizer, schedule: Schedule, epochs: range) -> list[dict]:
        seen = []
        for epoch in epochs:
            for _ in range(3):
                group = optimizer.param_groups[0]
                seen.append({key: group.get(key) for key in ("lr", "momentum", "betas")})
                optimizer.step()
                schedule.step()
            schedule.look(scores[epoch])
        return seen

    undisturbed = optimizer_of(0.2, 0.02, kind=kind)
    expected = run(undisturbed, Schedule(undisturbed, settings, 3), range(8))
    first = optimizer_of(0.2, 0.02, kind=kind)
    schedule = Schedule(first, settings, 3)
    begun = run(first, schedule, range(killed_after))
    state = {"optimizer": first.state_dict(), "schedule": schedule.state_dict()}
    second = optimizer_of(0.2, 0.02, kind=kind)
    again = Schedule(second, settings, 3)
    second.load_state_dict(state["optimizer"])
    again.load_state_dict(state["schedule"])
    assert begun + run(second, again, range(killed_after, 8)) == expected
    assert [group["lr"] for group in second.param_groups] == [g["lr"] for g in undisturbed.param_groups]
