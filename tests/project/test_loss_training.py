"""Losses where they are used: the head that a margin wants, its scale in the weights file, centres in the
checkpoint, batches for a triplet, weights by the rows of the fold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from src.config import Config, UserError
from src.configfile import load_config
from src.data.loaders import TrainingRows, load_fold, read_folds
from src.data.prepare import prepare_dataset
from src.losses.margins import margin_scale
from src.models.build import Architecture, create_model, embedding_length
from src.models.weights import load_model, save_model
from src.tasks import create_task
from src.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def read(project: Path, *overrides: str) -> Config:
    return load_config(project / "configs" / "baseline.yaml", list(overrides))


def make_trainer(project: Path, *overrides: str, fold: int = 0, extra: TrainingRows | None = None) -> Trainer:
    config = read(project, *overrides)
    data = load_fold(config, create_task(config), fold)
    rows = data.train if extra is None else data.train + extra
    return Trainer(config, create_task(config), data, rows, fold, CPU)


def silent(*_: object, **__: object) -> None:
    """A report that nobody reads."""


@pytest.fixture
def identities(prepared) -> Path:
    """The same competition with the digits as identities."""
    path = prepared / "configs" / "baseline.yaml"
    path.write_text(path.read_text() + "task: {name: retrieval}\n")
    prepare_dataset(read(prepared))
    return prepared


# --- the head and its scale ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "head"), [("null", "linear"), ("focal", "linear"), ("arcface", "cosine"), ("normface", "cosine")]
)
def test_a_margin_loss_has_a_cosine_head_and_every_other_a_linear_one(prepared, loss, head):
    architecture = make_trainer(prepared, f"train.loss={loss}").architecture
    assert architecture.head == head
    assert architecture.logit_scale == (
        margin_scale(read(prepared).train.margin, 10) if head == "cosine" else None
    )


@pytest.mark.parametrize(("loss", "head"), [("null", "cosine"), ("cross_entropy", "linear")])
def test_retrieval_has_the_head_that_its_loss_wants(identities, loss, head):
    trainer = make_trainer(identities, f"train.loss={loss}")
    assert trainer.architecture.head == head
    row = trainer.train_epoch(0, silent)
    assert np.isfinite([row["train_loss"], row["stop_loss"], row["stop_map5"]]).all()


@pytest.mark.parametrize("scale", ["null", "30"])
def test_the_weights_file_alone_predicts_the_softmax_of_scaled_cosines_without_a_margin(prepared, scale):
    trainer = make_trainer(
        prepared, "train.loss=arcface", f"train.margin.scale={scale}", "train.ema.enabled=false"
    )
    trainer.train_epoch(0, silent)
    path = prepared / "model.safetensors"
    save_model(path, trainer.architecture, trainer.model.state_dict())
    model, images = load_model(path), torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        output = model(images)
        cosines = F.normalize(output.embedding) @ F.normalize(model.head.weight).T
    expected = (margin_scale(trainer.config.train.margin, 10) if scale == "null" else 30.0) * cosines
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)
    said = create_task(trainer.config).activate(output.logits)
    torch.testing.assert_close(said, expected.softmax(1), rtol=1e-4, atol=1e-5)


def test_a_weights_file_from_before_scales_were_kept_still_gives_its_cosines(tmp_path):
    architecture = Architecture("test_resnet", 4, 16, (0.5,) * 3, (0.3,) * 3, head="cosine")
    model, path = create_model(architecture).eval(), tmp_path / "model.safetensors"
    values = architecture.as_dict()
    del values["logit_scale"]
    save_file(model.state_dict(), path, metadata={"architecture": json.dumps(values)})
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        again = load_model(path)(images).logits
        assert torch.equal(again, model(images).logits)
    assert again.abs().max() <= 1


def test_the_scale_stands_in_the_weights_file(prepared):
    trainer = make_trainer(prepared, "train.loss=cosface")
    save_model(prepared / "model.safetensors", trainer.architecture, trainer.model.state_dict())
    with safe_open(prepared / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["architecture"])["logit_scale"] == pytest.approx(10.2667, abs=1e-3)


def test_a_run_with_a_margin_goes_through_training_and_prediction(prepared, stage_here):
    overrides = (
        "train.loss=arcface",
        "train.epochs=10",
        "train.ema.enabled=false",
        "train.margin.triplet_weight=0.5",
        "train.top_share=0.7",
    )
    for script in ("02_train.py", "03_oof_predict.py"):
        done = stage_here(prepared, script, *overrides)
        assert (done.returncode, done.stderr) == (0, "")
    oof = pd.read_parquet(prepared / "runs/baseline/oof.parquet")
    values = oof[[str(i) for i in range(10)]].to_numpy()
    np.testing.assert_allclose(values.sum(1), 1, atol=1e-5)
    assert (values.argmax(1) == oof["target"].astype(int)).mean() > 0.3  # chance is 0.1


# --- centres ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [{}, {"head": "cosine", "embedding": 12}])
def test_the_length_of_an_embedding_is_that_of_what_a_network_gives(shape):
    model = create_model(Architecture("test_resnet", 4, 16, (0.5,) * 3, (0.3,) * 3, **shape)).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    length = embedding_length(model)
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert (
        length == model.eval()(torch.zeros(2, 3, 16, 16)).embedding.shape[1] == shape.get("embedding", length)
    )


def test_centres_are_state_of_the_checkpoint_and_training_goes_on_from_them_bit_by_bit(prepared, tmp_path):
    overrides = ("train.center_weight=0.01", "train.epochs=2", "model.drop_rate=0.2")
    whole = make_trainer(prepared, *overrides)
    for epoch in range(2):
        whole.train_epoch(epoch, silent)
    first = make_trainer(prepared, *overrides)
    first.train_epoch(0, silent)
    first.save(tmp_path / "checkpoint.pt", "same")
    again = make_trainer(prepared, *overrides)
    again.resume(tmp_path / "checkpoint.pt", "same")
    assert again.loss.center.centers.count_nonzero() > 0
    again.train_epoch(1, silent)
    assert torch.equal(again.loss.center.centers, whole.loss.center.centers)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)


def test_a_look_at_the_stopping_rows_moves_no_centre(prepared):
    trainer = make_trainer(prepared, "train.center_weight=0.01")
    trainer.train_epoch(0, silent)
    before = trainer.loss.center.centers.clone()
    trainer.look(0)
    assert torch.equal(trainer.loss.center.centers, before)


# --- batches, weights, shares -------------------------------------------------------------------------------


def test_a_triplet_beside_classes_has_batches_of_a_few_classes_with_a_few_rows_each(prepared):
    settings = ("train.margin.triplet_weight=1", "train.batch_size=12", "train.images_per_class=3")
    trainer = make_trainer(prepared, *settings)
    labels, seen = trainer.rows.targets.argmax(1), set()
    for rows in trainer.sampler.batches():
        assert (np.unique(labels[rows], return_counts=True)[1] >= 3).all()
        seen |= set(rows.tolist())
    assert seen == set(range(len(trainer.rows)))
    alone = make_trainer(prepared, "train.batch_size=12")
    assert any((np.unique(labels[rows], return_counts=True)[1] < 3).any() for rows in alone.sampler.batches())


@pytest.mark.parametrize("fold", [0, 1])
def test_class_weights_are_those_of_the_folds_own_training_rows_alone(prepared, fold):
    path = prepared / "data" / "folds.csv"
    table = pd.read_csv(path, dtype=str)
    mine = (table["fold"] != str(fold)) & (table["stop"] != str(fold))
    held_out = table.index[~mine]
    table.loc[held_out, "target"] = "0"  # whatever the others are, they must not matter
    table.to_csv(path, index=False)
    classes = [str(i) for i in range(10)]
    data = load_fold(read(prepared), create_task(read(prepared)), fold)
    extra = TrainingRows(
        data.store.test[:30], np.eye(10, dtype=np.float32)[[1] * 30], np.full(30, 0.5, np.float32)
    )
    found = make_trainer(prepared, "train.class_weights=inverse", fold=fold, extra=extra).loss.weights
    counts = read_folds(read(prepared))["target"][mine].value_counts().reindex(classes).to_numpy()
    np.testing.assert_allclose(found, counts.sum() / (10 * counts), rtol=1e-6)


def test_a_pseudo_labelled_row_keeps_its_own_weight_times_that_of_its_class(prepared, monkeypatch):
    asked = []

    def keep(losses, weights, total, top_share=None):
        asked.append((weights.sum().item(), total, top_share))
        return losses.sum() * 0

    monkeypatch.setattr("src.training.trainer.reduce", keep)
    data = load_fold(read(prepared), create_task(read(prepared)), 0)
    extra = TrainingRows(
        data.store.test[:9], np.eye(10, dtype=np.float32)[[1] * 9], np.full(9, 0.25, np.float32)
    )
    overrides = ("train.class_weights=inverse", "train.top_share=0.5", "train.accumulate=2")
    trainer = make_trainer(prepared, *overrides, extra=extra)
    trainer.train_epoch(0, silent)
    assert sum(weights for weights, _, _ in asked) == pytest.approx(len(data.train) + 9 * 0.25)
    assert {share for _, _, share in asked} == {0.5}
    windows = [asked[i : i + 2] for i in range(0, len(asked), 2)]
    for window in windows:  # both batches of a window are divided by its weight
        total = sum(weights for weights, _, _ in window)
        assert [given for _, given, _ in window] == pytest.approx([total] * len(window))


def test_a_class_that_is_not_there_ends_training_in_a_sentence(prepared, stage_here):
    with pytest.raises(UserError, match="there is no class 'ten'"):
        make_trainer(prepared, "train.class_weights={ten: 2}")
    done = stage_here(prepared, "02_train.py", "train.class_weights={ten: 2}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: train.class_weights: there is no class 'ten'; name some of 0, 1, 2")
