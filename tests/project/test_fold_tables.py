"""What stage 03 asks a fold's model: maps with every view undone, embeddings of all views, and who is looked
for among whom. Networks here are formulas, so that numpy knows what they must say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import BASELINE, forget_the_listings, write_config
from digits import runs_of, write_competition
from scipy.special import expit, softmax
from torch import nn

from src.config import Config, Data, Inference
from src.configfile import load_config
from src.data.decode import content_box, resize_image
from src.data.images import ImageStore
from src.data.loaders import load_fold, read_folds
from src.data.prepare import prepare_dataset
from src.data.views import VIEWS
from src.inference.fold_tables import FoldPredictor, map_tables, ranking_tables
from src.inference.predict import embed, predict_maps
from src.models.output import Output
from src.tasks import create_task
from src.tasks.base import targets_in

CPU = torch.device("cpu")
SIDE = 32
TASK = create_task(Config(task={"name": "segmentation"}))
EXCLUSIVE = create_task(Config(task={"name": "segmentation"}, train={"loss": "ce_dice"}))
TURNS = {  # of (..., H, W): the view, and the way back, in numpy's words
    "identity": (lambda x: x, lambda x: x),
    "hflip": (lambda x: x[..., ::-1], lambda x: x[..., ::-1]),
    "vflip": (lambda x: x[..., ::-1, :], lambda x: x[..., ::-1, :]),
    "rot90": (lambda x: np.rot90(x, 1, (-2, -1)), lambda x: np.rot90(x, -1, (-2, -1))),
    "rot180": (lambda x: x[..., ::-1, ::-1], lambda x: x[..., ::-1, ::-1]),
    "rot270": (lambda x: np.rot90(x, -1, (-2, -1)), lambda x: np.rot90(x, 1, (-2, -1))),
    "transpose": (lambda x: np.swapaxes(x, -2, -1), lambda x: np.swapaxes(x, -2, -1)),
}
SHIFTS = {"up": np.s_[1:, :], "down": np.s_[:-1, :], "left": np.s_[:, 1:], "right": np.s_[:, :-1]}


class Formula(nn.Module):
    """Logits a pixel, of its own colours and, with `place`, of where it stands; an embedding of them all."""

    def __init__(self, outputs: int = 2, place: float = 0.0):
        super().__init__()
        rng = np.random.default_rng(0)
        self.colours = 0.02 * rng.normal(size=(outputs, 3)).astype(np.float32)
        self.place = place * rng.normal(size=(outputs, SIDE, SIDE)).astype(np.float32)
        self.pixels = rng.normal(size=(3 * SIDE * SIDE, 5)).astype(np.float32)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """(B, C, S, S) of images (B, 3, S, S)."""
        return np.einsum("oc,bchw->bohw", self.colours, x - np.float32(100)) + self.place

    def embedding(self, x: np.ndarray) -> np.ndarray:
        """(B, 5)."""
        return (x - np.float32(100)).reshape(len(x), -1) @ self.pixels

    def forward(self, x: torch.Tensor) -> Output:
        x = x.numpy().astype(np.float32)
        return Output(torch.from_numpy(self.logits(x)), torch.from_numpy(self.embedding(x)))


def pictures(n: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3)).astype(np.uint8)


def store_of(pixels: np.ndarray) -> ImageStore:
    rows = np.arange(len(pixels))
    return ImageStore(pixels, rows, rows[:0], [str(row) for row in rows], [], (0.5,) * 3, (0.2,) * 3)


def mapped(model, pixels, task=TASK, positions=None, sizes=None, data=None, **settings):
    """`predict_maps` of whole squares."""
    positions = np.arange(len(pixels)) if positions is None else positions
    sizes = [(SIDE, SIDE)] * len(positions) if sizes is None else sizes
    data, settings = data or Data(image_size=SIDE), Inference(**{"batch_size": 3} | settings)
    return predict_maps(model, task, store_of(pixels), positions, sizes, settings, data, CPU)


# --- maps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tta", [*((view,) for view in TURNS), ("identity", "hflip"), ("rot90", "transpose"), tuple(TURNS)]
)
@pytest.mark.parametrize("average", ["probability", "logit"])
def test_a_model_that_sees_pixels_alone_says_the_same_in_every_view(tta, average):
    pixels, model = pictures(), Formula()
    expected = np.rint(255 * expit(model.logits(pixels.transpose(0, 3, 1, 2).astype(np.float32))))
    found = np.stack(list(mapped(model, pixels, tta=tta, average=average)))
    assert np.abs(found - expected).max() <= (0 if len(tta) == 1 else 1)  # the mean of equals, in float32
    assert (found == expected).mean() > 0.999


@pytest.mark.parametrize("view", SHIFTS)
def test_a_shift_is_undone_but_for_the_edge_that_it_lost(view):
    pixels, model, kept = pictures(), Formula(), SHIFTS[view]
    plain, found = (np.stack(list(mapped(model, pixels, tta=(tta,)))) for tta in ("identity", view))
    np.testing.assert_array_equal(found[:, :, *kept], plain[:, :, *kept])
    assert (found != plain).any()


@pytest.mark.parametrize("task", [TASK, EXCLUSIVE], ids=["classes apart", "exclusive"])
@pytest.mark.parametrize("average", ["probability", "logit"])
@pytest.mark.parametrize("tta", [("identity", "hflip"), ("vflip", "rot90", "rot270"), tuple(TURNS)])
def test_views_are_averaged_as_probabilities_or_as_logits(task, average, tta):
    """Of a model that says something else at every place."""
    pixels, model = pictures(), Formula(place=2.0)
    x = pixels.transpose(0, 3, 1, 2).astype(np.float32)

    def chances(raw: np.ndarray) -> np.ndarray:
        if task is TASK:
            return expit(raw)
        return softmax(np.concatenate([np.zeros_like(raw[:, :1]), raw], axis=1), axis=1)[:, 1:]

    said = [back(model.logits(there(x))) for there, back in (TURNS[view] for view in tta)]
    averages = {
        "logit": chances(np.mean(said, axis=0)),
        "probability": np.mean([chances(raw) for raw in said], axis=0),
    }
    found = np.stack(list(mapped(model, pixels, task, tta=tta, average=average)))
    assert np.abs(found - 255 * averages[average]).max() < 0.51
    assert np.abs(averages["logit"] - averages["probability"]).max() > 0.05


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_maps_come_in_the_rows_own_order_whatever_the_batches(batch_size):
    pixels, rows, counted = pictures(), np.array([5, 0, 5, 2]), []
    model, settings = Formula(), Inference(tta=("identity",), batch_size=batch_size)
    args = (store_of(pixels), rows, [(SIDE, SIDE)] * 4, settings, Data(image_size=SIDE), CPU, counted.append)
    found = np.stack(list(predict_maps(model, TASK, *args)))
    every = np.stack(list(mapped(model, pixels, tta=("identity",))))
    np.testing.assert_array_equal(found, every[rows])
    assert sum(counted) == 4
    assert len(mapped(model, pixels, positions=rows[:0])) == 0


@pytest.mark.parametrize("tta", [("identity",), ("hflip", "vflip", "rot90")])
def test_the_padding_is_cut_off_and_the_rest_looked_at_in_the_images_own_size(tta):
    sizes, data = [(90, 60), (20, 64), (50, 50), (3, 70)], Data(image_size=SIDE, fit="pad")
    pixels = np.stack(
        [resize_image(np.full((*size, 3), 255, np.uint8), data) for size in sizes]
    )  # white on black
    model = Formula(1)
    model.colours[:] = 0.02
    found = mapped(model, pixels, sizes=sizes, data=data, tta=tta)
    white = round(255 * expit(0.06 * 155))
    for row, size in enumerate(sizes):
        stored = found.resized(None)[row]
        assert stored.shape == (1, *content_box(*size, data)[2:])
        assert (stored == white).all()
        assert found[row].shape == (1, *size)
    assert found.sizes == sizes


# --- embeddings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tta", [("identity",), ("identity", "hflip", "rot90", "up")])
def test_an_embedding_is_the_sum_over_the_views_brought_to_length_one(tta):
    pixels, model, rows = pictures(9), Formula(), np.array([8, 1, 1, 4, 0])
    x = torch.from_numpy(pixels[rows].transpose(0, 3, 1, 2).copy())
    said = np.stack([model(VIEWS[view](x)).embedding.numpy() for view in tta])  # (views, B, 5)
    total = said.sum(0)
    counted: list[int] = []
    found = embed(model, store_of(pixels), rows, Inference(tta=tta, batch_size=2), CPU, counted.append)
    np.testing.assert_allclose(
        found, total / np.linalg.norm(total, axis=1, keepdims=True), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert (found.dtype, sum(counted)) == (np.float32, 5)
    if len(tta) > 1:  # views of length one would weigh otherwise
        alike = (said / np.linalg.norm(said, axis=2, keepdims=True)).sum(0)
        assert np.abs(found - alike / np.linalg.norm(alike, axis=1, keepdims=True)).max() > 0.01


def test_no_images_have_no_embeddings():
    assert len(embed(Formula(), store_of(pictures()), np.arange(0), Inference(), CPU)) == 0


# --- the tables of a fold -----------------------------------------------------------------------------------


def project(folder: Path, task: str, settings: str) -> Config:
    """A made competition after stage 01."""
    write_competition(folder / "data" / "raw", n_train=80, n_test=30, task=task)
    write_config(folder, "common", BASELINE)
    path = write_config(folder, "baseline", f"base: common\n{settings}")
    forget_the_listings()
    prepare_dataset(load_config(path, ["data.image_size=32"]))
    return load_config(path, ["data.image_size=32"])


def asked(config: Config, fold: int = 0) -> FoldPredictor:
    task = create_task(config)
    return FoldPredictor(config, task, load_fold(config, task, fold), Formula(1), CPU, lambda rows: None)


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Config:
    settings = "task: {name: segmentation}\ndata: {rle: rle, fit: pad}\n"
    return project(tmp_path_factory.mktemp("masks"), "segmentation", settings)


@pytest.mark.parametrize("fold", [0, 1])
def test_maps_stand_beside_the_true_masks_of_the_folds_own_rows(masks, fold):
    one = asked(masks, fold)
    tables, folds = map_tables(one), read_folds(masks)
    train = pd.read_csv(masks.root / "data/raw/train.csv", dtype=str).set_index("id")
    assert list(tables) == ["oof", "test"]
    oof, test = tables["oof"], tables["test"]
    assert list(oof.columns) == ["id", "fold", "target", "height", "width", "mask"]
    assert oof["id"].tolist() == folds["id"][folds["fold"] == fold].tolist()
    assert set(oof["fold"]) == {fold}
    truth = one.task.truth(targets_in(oof), ["mask"])
    said = one.task.read(oof, ["mask"])
    for name, true, seen, size in zip(oof["id"], truth, said, said.sizes, strict=True):
        assert runs_of(true[0] > 0) == train["rle"][name]
        assert true.shape == seen.shape == (1, *size)
    assert list(test.columns) == ["id", "height", "width", "mask"]
    assert test["id"].tolist() == pd.read_csv(masks.root / "data/raw/test.csv", dtype=str)["id"].tolist()
    assert len(set(said.sizes)) == 3


@pytest.fixture(scope="module", params=["new_id", None])
def identities(request, tmp_path_factory) -> Config:
    new = f", new_label: {request.param}" if request.param else ""
    share = ", new_share: 0.5" if request.param else ""
    settings = [
        "task: {name: retrieval}",
        f"data: {{target: Id{new}}}",
        f"cv: {{n_folds: 4, stop_parts: 4{share}}}",
        "inference: {candidates: 5}",
    ]
    return project(tmp_path_factory.mktemp("identities"), "retrieval", "\n".join(settings))


@pytest.mark.parametrize("fold", [0, 1])
def test_who_is_looked_for_among_whom(identities, fold):
    """A fold's rows among the other folds', its early-stopping rows among those it learned from, test rows
    among all; and, to be told what they are, test rows among those it learned from alone."""
    one = asked(identities, fold)
    tables, folds = ranking_tables(one), read_folds(identities)
    own, stops = folds["fold"] == fold, (folds["fold"] != fold) & (folds["stop"] == fold)
    learned, every = ~own & ~stops, folds["fold"] >= 0
    embedded = embed(one.model, one.data.store, np.arange(110), identities.inference, CPU).astype(np.float64)
    train, test = embedded[one.data.store.train], embedded[one.data.store.test]
    asks = {
        "oof": (train[own], ~own),
        "stop": (train[stops], learned),
        "test": (test, every),
        "blind": (test, learned),
    }
    assert set(tables) == set(asks)
    for name, (queries, gallery) in asks.items():
        cosines = queries @ train[gallery].T
        owners = folds["target"][gallery].to_numpy()
        best = pd.DataFrame(cosines.T).groupby(owners).max()  # (identities, queries)
        ranking = one.task.read(tables[name], one.data.outputs)
        assert len(ranking) == len(queries) > 0
        for query in range(len(queries)):
            expected = best[query].sort_values(ascending=False)[:5]
            np.testing.assert_allclose(ranking.scores[query], expected, atol=1e-5)
            np.testing.assert_allclose(best[query][ranking.labels[query]], expected, atol=1e-5)
    ids = {name: table["id"].tolist() for name, table in tables.items()}
    assert ids["test"] == ids["blind"] == one.data.store.test_ids
    assert (ids["oof"], ids["stop"]) == (folds["id"][own].tolist(), folds["id"][stops].tolist())


@pytest.mark.parametrize("fold", [0, 1])
def test_the_answer_for_someone_who_is_not_there_is_the_label_for_new_ones(identities, fold):
    one, folds = asked(identities, fold), read_folds(identities)
    tables, new = ranking_tables(one), identities.data.new_label
    own, stops = folds["fold"] == fold, (folds["fold"] != fold) & (folds["stop"] == fold)
    changed = 0
    for name, rows, gallery in (("oof", own, ~own), ("stop", stops, ~own & ~stops)):
        there = set(folds["target"][gallery])
        expected = [label if label in there or new is None else new for label in folds["target"][rows]]
        assert tables[name]["target"].tolist() == expected
        changed += sum(label == "new_id" for label in expected)
    assert "target" not in {*tables["test"], *tables["blind"]}
    assert (changed > 0) == (new is not None)
