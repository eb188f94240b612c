"""The learning-rate range test: what it does to the optimiser, reads off the curve, and leaves."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from trainers import make_trainer

from src.commands import lr_find
from src.training import lr_finder
from src.training.lr_finder import HIGH, LOW, for_range_test, range_test, suggest
from src.training.single_steps import take_step, windows


def curve(smoothed, rates=None) -> pd.DataFrame:
    rates = np.geomspace(LOW, HIGH, 100) if rates is None else rates
    values = smoothed(np.log10(rates)) if callable(smoothed) else smoothed
    return pd.DataFrame({"lr": rates, "loss": values, "smoothed": values})


def test_the_steepest_descent_and_a_tenth_of_the_lowest_are_found_where_they_are():
    """A loss that falls along a logistic curve around 1e-3, and rises again from 1e-1 on."""
    found = suggest(curve(lambda x: 2 - 1.5 / (1 + np.exp(-4 * (x + 3))) + np.maximum(x + 1, 0) ** 2))
    assert np.log10(found.steepest) == pytest.approx(-3, abs=0.1)
    assert np.log10(found.tenth) == pytest.approx(-2, abs=0.1)
    assert found.rate == found.steepest
    assert found.why.startswith("where the loss falls fastest, the lower of the two")


def test_the_lower_of_the_two_is_taken():
    found = suggest(curve(lambda x: np.where(x < -1, 2 - 1e-3 * (x + 7), 8 * (x + 0.85) ** 2 + 1.8)))
    assert found.rate == found.tenth < found.steepest
    assert found.why.startswith("a tenth of where the loss is lowest")


def test_noise_from_step_to_step_is_not_taken_for_a_descent():
    wiggle = np.zeros(100)
    wiggle[20:22] = 0.3, -0.3  # one unlucky batch after a lucky one, at 1e-5
    base = curve(lambda x: 2 - 1.5 / (1 + np.exp(-4 * (x + 3))))["smoothed"]
    assert np.log10(suggest(curve(base.to_numpy() + wiggle)).steepest) == pytest.approx(-3, abs=0.3)


def test_a_loss_that_never_falls_gives_no_rate():
    found = suggest(curve(lambda x: 1 + (x + 7) ** 2))
    assert (found.steepest, found.tenth, found.rate) == (None, None, None)
    assert "never falls" in found.why


# --- the test itself ----------------------------------------------------------------------------------------


def test_the_rate_rises_by_equal_factors_and_lower_layers_keep_their_distance(prepared, monkeypatch):
    trainer, seen = make_trainer(prepared, "train.backbone_lr=0.1", "train.batch_size=8"), []

    def remember(trainer, window):
        seen.append(sorted({group["lr"] for group in trainer.optimizer.param_groups}))
        return 1.0

    monkeypatch.setattr(lr_finder, "take_step", remember)
    found = range_test(trainer, steps=30)
    rates = np.geomspace(LOW, HIGH, 30)
    np.testing.assert_allclose(np.array(seen), np.stack([rates / 10, rates], axis=1), rtol=1e-9)
    np.testing.assert_allclose(found["lr"], rates)


def test_the_loss_is_smoothed_without_leaning_to_zero_and_the_test_ends_when_it_blows_up(
    prepared, monkeypatch
):
    losses = iter([2.0] * 20 + [1.0] * 20 + [1e3] * 60)
    monkeypatch.setattr(lr_finder, "take_step", lambda *_: next(losses))
    found = range_test(make_trainer(prepared))
    assert len(found) == 41  # the first mean above four times the best one is the last that is needed
    assert found["smoothed"][0] == 2.0
    weights = 0.95 ** np.arange(29, -1, -1)
    assert found["smoothed"][29] == pytest.approx(np.average(found["loss"][:30], weights=weights))


def test_a_loss_that_is_no_number_ends_it_without_a_trace(prepared, monkeypatch):
    losses = iter([2.0] * 30 + [float("nan")])
    monkeypatch.setattr(lr_finder, "take_step", lambda *_: next(losses))
    found = range_test(make_trainer(prepared))
    assert len(found) == 30
    assert found["smoothed"].notna().all()


def test_a_step_outside_the_loop_is_the_loops_own(prepared):
    """The same optimiser steps, so that what is measured is what training does."""
    overrides = ("train.accumulate=2", "train.batch_size=8", "train.schedule=constant", "train.clip_grad=1")
    ours, theirs = (make_trainer(prepared, *overrides) for _ in range(2))
    theirs.train_epoch(0, lambda *_, **__: None)
    ours.freeze.apply(0)
    for window in itertools.islice(windows(ours), ours.steps_per_epoch):
        take_step(ours, window)
    for name, tensor in theirs.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], tensor), name


def test_windows_go_on_with_another_order_every_epoch(prepared):
    trainer = make_trainer(prepared, "train.batch_size=16", "train.accumulate=2")
    size = [len(window) for window in itertools.islice(windows(trainer), 4)]
    per_epoch = len(trainer.sampler.batches())
    assert size == [2] * (per_epoch // 2) + [1] * (per_epoch % 2) + size[trainer.steps_per_epoch :]
    firsts = [window[0][1] for window in itertools.islice(windows(trainer), 2 * trainer.steps_per_epoch)]
    assert not torch.equal(firsts[0], firsts[trainer.steps_per_epoch])


def test_nothing_that_changes_with_time_is_in_the_way(prepared):
    config = make_trainer(prepared).config
    frozen = config.model_copy(update={"train": config.train.model_copy(update={"freeze_epochs": 1})})
    changed = for_range_test(frozen)
    assert changed.train.freeze_epochs is None
    assert not changed.train.ema.enabled
    assert changed.train.lr == config.train.lr


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_writes_a_table_and_a_picture_and_changes_nothing_else(prepared, command, snapshot):
    before = snapshot(prepared)
    done = command(lr_find, prepared, "train.batch_size=8")
    assert (done.returncode, done.stderr) == (0, "")
    after = snapshot(prepared)
    assert set(after) - set(before) == {"runs/baseline/lr_find.csv", "runs/baseline/lr_find.png"}
    assert {name: after[name] for name in before} == before
    table = pd.read_csv(prepared / "runs/baseline/lr_find.csv")
    assert list(table.columns) == ["lr", "loss", "smoothed"]
    found = suggest(table)
    told = "never falls" if found.rate is None else f"try train.lr={found.rate:.2g} (now 0.004)"
    assert told in done.stdout
    again = command(lr_find, prepared, "train.batch_size=8")
    assert again.stdout == done.stdout
    assert snapshot(prepared) == after


def test_the_command_says_what_comes_first(project, command):
    done = command(lr_find, project)
    assert done.returncode == 2
    assert "run `make folds EXP=baseline` first" in done.stderr
