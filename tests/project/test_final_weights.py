"""Weights mixed at the end: SWA's mean, snapshots of cycles, greedy soups, and their batch norms."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import update_bn
from trainers import CPU, make_trainer, read, silent

from src.artifacts import read_json
from src.config import EarlyStopping, Ema, Swa, Train, snapshot_names
from src.inference.oof import predict_run
from src.inference.snapshots import load_models, model_files
from src.steps import predict_step, run_of, train_step
from src.training.averaging import StochasticAverage
from src.training.batchnorm import update_batch_norms
from src.training.fold import train_fold
from src.training.snapshots import Snapshots
from src.training.soup import greedy_soup, mean_state

ALL_EPOCHS = ("train.early_stopping.patience=null", "train.ema.enabled=false")
CYCLES = (*ALL_EPOCHS, "train.epochs=6", "train.cycles=3")


class Small(nn.Module):
    """A linear layer and a batch norm that all hold one number."""

    def __init__(self, value: float = 0.0):
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)
        self.set(value)

    def set(self, value: float) -> None:
        nn.init.constant_(self.layer.weight, value)
        self.norm.running_mean.fill_(value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(x))


# --- SWA ----------------------------------------------------------------------------------------------------


def settings(**more) -> Train:
    return Train(**{"epochs": 8, "warmup_epochs": 0, "ema": Ema(enabled=False), "swa": Swa(start=0.5)} | more)


@pytest.mark.parametrize(
    ("more", "counted"),
    [
        ({}, [5, 6, 7, 8]),
        ({"swa": Swa(start=0.7)}, [6, 7, 8]),
        ({"swa": Swa(start=0.0)}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"cycles": 4}, [6, 8]),  # the ends of those cycles
        ({"cycles": 2, "epochs": 9, "swa": Swa(start=0.0)}, [5, 9]),
    ],
)
def test_swa_is_the_plain_mean_of_the_weights_at_the_ends_of_the_last_epochs(more, counted):
    model, train = Small(), settings(**more)
    average = StochasticAverage(model, train)
    for epoch in range(train.epochs):
        model.set((epoch + 1) ** 2)
        average.take(model, epoch)
    expected = np.mean([number**2 for number in counted])
    np.testing.assert_allclose(average.model.layer.weight.detach(), expected, rtol=1e-6)
    assert model.layer.weight.mean().item() == train.epochs**2


def test_swa_goes_on_from_its_state_as_if_never_interrupted():
    def run(interrupted: bool) -> torch.Tensor:
        model = Small()
        average = StochasticAverage(model, settings())
        for epoch in range(8):
            if interrupted and epoch == 6:
                state, average = average.state_dict(), StochasticAverage(model, settings())
                average.load_state_dict(state)
            model.set(0.1 + epoch)
            average.take(model, epoch)
        return average.model.layer.weight.detach()

    assert torch.equal(run(True), run(False))


def test_a_training_with_swa_ends_with_the_mean_of_its_epochs_and_statistics_of_its_own(prepared, tmp_path):
    trainer = make_trainer(prepared, *ALL_EPOCHS, "train.epochs=4", "train.swa.start=0.5")
    ends = []
    for epoch in range(4):
        trainer.train_epoch(epoch, silent)
        ends.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
    state, kept = trainer.final_state(Snapshots(tmp_path, trainer.config.train))
    assert kept == "SWA of epochs [3, 4]"
    for name, _ in trainer.model.named_parameters():
        torch.testing.assert_close(state[name], (ends[2][name] + ends[3][name]) / 2, rtol=1e-6, atol=1e-7)
    mean = "backbone.bn1.running_mean"
    assert not torch.equal(state[mean], ends[3][mean])
    predictions, _ = trainer.evaluate(trainer.stop)
    assert np.isfinite(predictions).all()


# --- batch norms --------------------------------------------------------------------------------------------


def test_measured_statistics_are_those_of_torchs_update():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2), nn.BatchNorm1d(2))
    theirs = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2), nn.BatchNorm1d(2))
    theirs.load_state_dict(ours.state_dict())
    batches = [torch.randn(8, 3) + 1 for _ in range(5)]
    update_batch_norms(ours, batches, frozen=set())
    update_bn(batches, theirs)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor)
    assert not any(layer.training for layer in ours.modules())
    assert ours[1].momentum == 0.1


def test_dropout_is_off_while_statistics_are_measured_and_frozen_layers_keep_theirs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    nn.init.constant_(model[0].running_mean, 7.0)
    batches = [torch.randn(16, 3) for _ in range(3)]
    update_batch_norms(model, batches, frozen={"0"})
    assert model[0].running_mean.tolist() == [7.0] * 3
    inputs = [model[0](batch) for batch in batches]
    torch.testing.assert_close(model[2].running_mean, torch.stack([x.mean(0) for x in inputs]).mean(0))
    torch.testing.assert_close(model[2].running_var, torch.stack([x.var(0) for x in inputs]).mean(0))


def test_a_network_without_batch_norms_is_not_run_at_all():
    def images():
        raise AssertionError
        yield

    update_batch_norms(nn.Linear(2, 2), images(), frozen=set())


def test_frozen_batch_norms_survive_swa(prepared, tmp_path):
    torch.save(make_trainer(prepared).model.backbone.state_dict(), prepared / "weights.pth")
    overrides = ("model.weights=weights.pth", "train.freeze_bn=true", "train.swa.start=0.5")
    trainer = make_trainer(prepared, *ALL_EPOCHS, *overrides, "train.epochs=2")
    before = trainer.model.state_dict()["backbone.bn1.running_mean"].clone()
    for epoch in range(2):
        trainer.train_epoch(epoch, silent)
    state, _ = trainer.final_state(Snapshots(tmp_path, trainer.config.train))
    assert torch.equal(state["backbone.bn1.running_mean"], before)


# --- soups --------------------------------------------------------------------------------------------------


def brute_force(values: list[float], rank) -> list[int]:
    """The paper's loop, written over plain numbers."""
    order = sorted(range(len(values)), key=lambda i: -rank(values[i]))
    soup = [order[0]]
    for number in order[1:]:
        if rank(np.mean([values[i] for i in [*soup, number]])) >= rank(np.mean([values[i] for i in soup])):
            soup.append(number)
    return soup


@pytest.mark.parametrize("seed", range(8))
def test_a_greedy_soup_is_the_papers_loop(seed):
    values = np.random.default_rng(seed).normal(size=6).tolist()

    def rank(value: float) -> float:
        return round(-abs(value - 0.1), 1)  # coarse, so that some tie

    found = greedy_soup([{"w": torch.tensor([v])} for v in values], lambda s: (rank(float(s["w"])), s))
    assert found[1] == brute_force(values, rank)
    assert found[0]["w"].item() == pytest.approx(np.mean([values[i] for i in found[1]]), rel=1e-5)


def test_a_soup_is_never_worse_than_its_best_ingredient_where_it_was_chosen():
    values = [3.0, -2.9, 5.0, 0.5]
    look = lambda state: (-abs(float(state["w"])), state)  # noqa: E731
    state, chosen = greedy_soup([{"w": torch.tensor([v])} for v in values], look)
    assert chosen[0] == 3
    assert abs(state["w"].item()) <= 0.5


def test_a_mean_of_states_is_the_mean_of_every_tensor_and_counts_are_left():
    first = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    second = {"w": torch.tensor([2.0, 6.0]), "n": torch.tensor(9)}
    mean = mean_state([first, second])
    assert mean["w"].tolist() == [1.5, 4.0]
    assert mean["n"].item() == 3


def test_a_training_with_a_soup_mixes_its_last_epochs_by_the_stopping_rows_alone(
    prepared, tmp_path, monkeypatch
):
    overrides = ("train.epochs=5", "train.soup=3", "train.early_stopping.patience=null")
    run = run_of(read(prepared, *overrides, "fold=0"))
    step, looked = train_step(run, 0), []
    from src.training.trainer import Trainer

    whole = Trainer.evaluate
    monkeypatch.setattr(Trainer, "evaluate", lambda t, rows: (looked.append(len(rows)), whole(t, rows))[1])
    drop, seen = Snapshots.clear, {}

    def remember(snapshots: Snapshots, finished: bool = False) -> None:
        seen.update({path.stem: load_file(path) for path in snapshots.ingredients.glob("*.safetensors")})
        drop(snapshots, finished)

    monkeypatch.setattr(Snapshots, "clear", remember)
    train_fold(run, 0, step, CPU, silent)
    score = read_json(step.folder / "score.json")
    assert set(looked[:-1]) == {score["stop"]}
    assert looked[-1] == score["valid"]
    assert sorted(seen) == ["epoch0002", "epoch0003", "epoch0004", "epoch0005"]  # one more than is mixed
    kept = load_file(step.folder / "model.safetensors")
    mixtures = {
        tuple(some): mean_state([seen[f"epoch{epoch:04d}"] for epoch in some])
        for count in (1, 2, 3)
        for some in itertools.combinations((3, 4, 5), count)
    }
    name = "head.linear.weight"
    same = [some for some, state in mixtures.items() if torch.allclose(state[name], kept[name], atol=1e-7)]
    assert [f"soup of epochs {list(some)}" for some in same] == [score["kept"]]
    assert not (step.folder / "ingredients").exists()


# --- snapshots ----------------------------------------------------------------------------------------------


def test_a_snapshot_is_what_each_of_the_last_cycles_left(prepared):
    config = read(prepared, *CYCLES, "train.snapshots=2", "fold=0")
    assert snapshot_names(config.train) == ("snapshot2.safetensors", "snapshot3.safetensors")
    trainer = make_trainer(prepared, *CYCLES, "train.snapshots=2")
    ends = {}
    for epoch in range(6):
        trainer.train_epoch(epoch, silent)
        ends[epoch + 1] = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    step = train_step(run_of(config), 0)
    train_fold(run_of(config), 0, step, CPU, silent)
    assert sorted(path.name for path in step.folder.glob("snapshot*")) == list(snapshot_names(config.train))
    for name, epoch in (("snapshot2", 4), ("snapshot3", 6)):
        state = load_file(step.folder / f"{name}.safetensors")
        assert state.keys() == ends[epoch].keys()
        assert all(torch.equal(state[key], ends[epoch][key]) for key in state)
    assert step.fresh()


def test_predictions_are_the_mean_over_the_snapshots(prepared):
    config = read(prepared, *CYCLES, "train.snapshots=2", "fold=0", "inference.tta=[identity,hflip]")
    run = run_of(config)
    train_fold(run, 0, train_step(run, 0), CPU, silent)
    folder = run.fold_folder(0)
    models = load_models(folder)
    assert [path.name for path in model_files(folder)] == ["snapshot2.safetensors", "snapshot3.safetensors"]
    predict_run(run, (0,))
    trainer = make_trainer(prepared)
    for name, positions in (("oof", trainer.data.valid.positions), ("test", trainer.data.store.test)):
        images = torch.from_numpy(trainer.data.store.pixels[positions]).permute(0, 3, 1, 2)
        with torch.no_grad():
            said = [model(view).logits.softmax(1) for model in models for view in (images, images.flip(-1))]
        table = pd.read_parquet(folder / f"{name}.parquet")
        found = table[trainer.data.outputs].to_numpy()
        np.testing.assert_allclose(found, torch.stack(said).mean(0).numpy(), atol=1e-5)
        assert not np.allclose(found, torch.stack(said[:2]).mean(0).numpy(), atol=1e-4)


def test_without_snapshots_the_one_model_predicts_and_nothing_becomes_stale(prepared):
    run = run_of(read(prepared, "fold=0"))
    train_fold(run, 0, train_step(run, 0), CPU, silent)
    assert model_files(run.fold_folder(0)) == [run.fold_folder(0) / "model.safetensors"]
    assert train_step(run, 0).outputs == ("model.safetensors", "history.csv", "score.json")
    recipe = predict_step(run, 0).recipe
    bare = {key: value for key, value in recipe.items() if key != "snapshots"}
    step = predict_step(run, 0)
    assert step.fingerprint == type(step)(step.title, step.folder, step.outputs, bare).fingerprint


def test_snapshots_of_an_unfinished_training_of_other_settings_do_not_predict(prepared):
    run = run_of(read(prepared, "fold=0"))
    folder = run.fold_folder(0)
    folder.mkdir(parents=True)
    (folder / "snapshot1.safetensors").write_bytes(b"of another training")
    train_fold(run, 0, train_step(run, 0), CPU, silent)
    assert [path.name for path in model_files(folder)] == ["model.safetensors"]


def test_a_snapshot_is_of_the_live_weights_and_an_ingredient_of_those_that_are_scored(tmp_path):
    train = Train(
        epochs=4, warmup_epochs=0, cycles=2, snapshots=2, early_stopping=EarlyStopping(patience=None)
    )
    assert Snapshots(tmp_path, train).live
    assert not Snapshots(tmp_path, Train(soup=2)).live
    assert [Snapshots(tmp_path, train).due(epoch) is not None for epoch in range(4)] == [
        False,
        True,
        False,
        True,
    ]
    mixed = train.model_copy(update={"soup": 2})
    assert snapshot_names(mixed) == ()  # one model is made of them
    assert Snapshots(tmp_path, mixed).due(1) == tmp_path / "ingredients" / "epoch0002.safetensors"


def test_ten_snapshots_are_in_the_order_of_their_cycles(tmp_path: Path):
    for number in (1, 2, 9, 10, 11):
        (tmp_path / f"snapshot{number}.safetensors").touch()
    assert [path.stem for path in model_files(tmp_path)] == [f"snapshot{i}" for i in (1, 2, 9, 10, 11)]
