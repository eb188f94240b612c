"""What a competitor looks at after a run: counts and ranges an output, and the images it is most wrong
about."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, log_loss
from trainers import read

from src.config import Config
from src.data.images import open_images
from src.inference import worst_images
from src.inference.oof import look_back
from src.inference.worst_images import caption_of_row, of_classes, of_labels, of_masks, of_values, seen
from src.maps import Maps
from src.report import pictures
from src.report.outputs import describe_outputs
from src.steps import run_of
from src.tasks import create_task
from src.tasks.retrieval import Ranking

RANDOM = np.random.default_rng(0)


def task_of(name: str, **more):
    return create_task(Config(task={"name": name}, **more))


# --- how wrong a row is -------------------------------------------------------------------------------------


def test_the_loss_of_a_class_is_its_cross_entropy():
    truth, said = np.array([0, 2, 1, 2]), RANDOM.dirichlet(np.ones(3), 4)
    expected = [log_loss([t], [p], labels=[0, 1, 2]) for t, p in zip(truth, said, strict=True)]
    np.testing.assert_allclose(of_classes(truth, said), expected, rtol=1e-6)
    assert np.isfinite(of_classes(np.array([0]), np.array([[0.0, 1.0]]))).all()


def test_the_loss_of_labels_is_the_mean_over_those_that_are_known():
    truth = np.array([[1, 0, np.nan], [0, 0, 1]], dtype=float)
    said = np.array([[0.9, 0.2, 0.5], [0.1, 0.6, 0.7]])
    expected = [-np.log([0.9, 0.8]).mean(), -np.log([0.9, 0.4, 0.7]).mean()]
    np.testing.assert_allclose(of_labels(truth, said), expected)
    binary = of_labels(np.array([1, 0]), np.array([[0.25], [0.25]]))  # one column, truth without one
    np.testing.assert_allclose(binary, -np.log([0.25, 0.75]))


def test_the_loss_of_numbers_is_in_standard_deviations_so_that_targets_count_alike():
    truth = np.array([[0.0, 0], [2, 2000], [4, 4000]])
    said = truth + np.array([[1, 0], [0, 1000], [0, 0]])
    found = of_values(truth, said)
    assert found[0] == pytest.approx(found[1]) == pytest.approx(0.5 / truth[:, 0].std())
    assert found[2] == 0


def masks(*arrays: np.ndarray) -> Maps:
    return Maps.of(np.asarray(array, dtype=np.uint8) * 255 for array in arrays)


def test_the_loss_of_a_mask_is_one_minus_its_dice():
    truth = RANDOM.random((3, 2, 8, 8)) < 0.4
    said = RANDOM.random((3, 2, 8, 8)) < 0.4
    expected = [
        1 - np.mean([f1_score(t.ravel(), s.ravel()) for t, s in zip(*pair, strict=True)])
        for pair in zip(truth, said, strict=True)
    ]
    np.testing.assert_allclose(of_masks(masks(*truth), masks(*said)), expected)


# --- counts and ranges --------------------------------------------------------------------------------------


def row(table: pd.DataFrame, output: str) -> dict:
    return table.set_index("output").loc[output].to_dict()


def test_classes_are_counted_as_they_are_and_as_they_are_said():
    said = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3]])
    table = describe_outputs(task_of("multiclass"), np.array([0, 2, 1, 2]), said, ["a", "b", "c"])
    assert table["rows"].tolist() == [1, 1, 2]
    assert table["said"].tolist() == [3, 1, 0]
    found = row(table, "c")
    assert found["mean_probability"] == pytest.approx(0.15)
    assert (found["least_probability"], found["highest_probability"]) == (0.1, 0.3)


def test_labels_are_counted_where_they_are_known_and_said_from_one_half_on():
    truth = np.array([[1, 0], [np.nan, 1], [1, 1]], dtype=float)
    said = np.array([[0.5, 0.1], [0.9, 0.2], [0.2, 0.3]])
    table = describe_outputs(task_of("multilabel"), truth, said, ["x", "y"])
    assert (table["rows"].tolist(), table["said"].tolist()) == ([2, 2], [2, 0])
    binary = describe_outputs(task_of("binary"), np.array([1, 0, 1]), said[:, :1], ["yes"])
    assert (binary["rows"].tolist(), binary["said"].tolist()) == ([2], [2])


def test_numbers_have_ranges_of_truth_and_predictions():
    table = describe_outputs(
        task_of("regression"), np.array([[1.0], [3.0]]), np.array([[1.5], [2.0]]), ["prediction"]
    )
    assert row(table, "prediction") == {
        "mean_target": 2.0,
        "least_target": 1.0,
        "highest_target": 3.0,
        "mean_said": 1.75,
        "least_said": 1.5,
        "highest_said": 2.0,
    }


def test_masks_are_counted_by_image_and_by_pixel():
    empty, half = np.zeros((4, 4)), np.repeat([[1, 1, 0, 0]], 4, axis=0)
    truth, said = masks([half, empty], [empty, half]), masks([half, empty], [half, empty])
    table = describe_outputs(task_of("segmentation"), truth, said, ["cell", "wall"])
    assert (table["rows"].tolist(), table["said"].tolist()) == ([1, 1], [2, 0])
    assert table["share_of_pixels"].tolist() == pytest.approx([0.25, 0.25])
    assert table["said_share"].tolist() == pytest.approx([0.5, 0.0])


def test_rankings_count_first_answers():
    said = Ranking([["a", "b"], ["b", "a"], ["a"]], [[0.9, 0.1], [0.8, 0.2], [0.4]], None)
    table = describe_outputs(
        task_of("retrieval"), np.array(["a", "new", "b"], dtype=object), said, ["a", "b"]
    )
    assert table.set_index("output")["rows"].to_dict() == {"a": 1, "b": 1, "new": 1}
    assert table.set_index("output")["said"].to_dict() == {"a": 2, "b": 1, "new": 0}


# --- the picture --------------------------------------------------------------------------------------------


def predictions(project, right: np.ndarray) -> tuple:
    """A run's OOF table in which the rows of `right` are sure and right, the others sure of another class."""
    config = read(project)
    folds = pd.read_csv(project / "data/folds.csv", dtype=str)
    outputs = sorted(folds["target"].unique())
    truth = folds["target"].map(outputs.index).to_numpy()
    guess = np.where(right, truth, (truth + 1) % len(outputs))
    values = np.full((len(folds), len(outputs)), 0.01)
    values[np.arange(len(folds)), guess] = 1 - 0.01 * (len(outputs) - 1)
    oof = folds[["id", "fold", "target"]].join(pd.DataFrame(values, columns=outputs))
    return run_of(config), create_task(config), oof, outputs


def test_the_worst_rows_are_shown_worst_first_with_their_own_image(prepared, monkeypatch):
    wrong = [7, 31, 60]
    run, task, oof, outputs = predictions(prepared, ~np.isin(np.arange(80), wrong))
    oof.loc[31, outputs] = np.eye(len(outputs))[(outputs.index(oof["target"][31]) + 1) % len(outputs)]
    shown = {}
    monkeypatch.setattr(worst_images, "_SHOWN", 3)
    monkeypatch.setattr(worst_images, "draw_worst", lambda path, *what: shown.update(path=path, what=what))
    worst_images.show_worst(run, task, oof, outputs)
    images, captions, outlines = shown["what"]
    assert [text.split("\n")[0] for text in captions] == [oof["id"][i] for i in (31, 7, 60)]
    assert outlines is None
    store = open_images(run.config)
    for image, place in zip(images, (31, 7, 60), strict=True):
        assert np.array_equal(image, store.pixels[store.train[place]])
    true = oof["target"][7]
    assert captions[1].endswith(f"{true} 0.01, said {outputs[(outputs.index(true) + 1) % 10]} 0.91")


def test_a_run_leaves_the_table_and_the_picture_and_says_which_outputs_it_never_says(prepared, capsys):
    run, task, oof, outputs = predictions(prepared, np.ones(80, dtype=bool))
    never = oof["target"] == "3"
    oof.loc[never, outputs] = np.eye(10)[4]
    look_back(run, task, oof, outputs)
    assert capsys.readouterr().out == "baseline: 1 of 10 outputs are never said (3); see outputs.csv\n"
    table = pd.read_csv(run.folder / "outputs.csv")
    assert table["rows"].sum() == table["said"].sum() == 80
    picture = cv2.imread(str(run.folder / "worst.png"))
    assert picture.shape[0] > 200
    assert picture.std() > 10


@pytest.mark.parametrize(
    ("task", "truth", "said", "outputs", "told"),
    [
        ("multilabel", [[1, 0]], [[0.9, 0.7]], ["cat", "dog"], "dog: 0, said 0.70"),
        ("binary", [1], [[0.2]], ["yes"], "yes: 1, said 0.20"),
        ("regression", [[5.0], [9.0]], [[7.25], [9.0]], ["prediction"], "5, said 7.25"),
    ],
)
def test_a_caption_says_what_is_true_and_what_was_said(task, truth, said, outputs, told):
    assert caption_of_row(task_of(task), np.array(truth), np.array(said), outputs, 0) == told


def test_a_mask_is_drawn_where_it_lies_on_the_padded_image():
    config = Config(data={"image_size": 16, "fit": "pad"})
    store = SimpleNamespace(train_sizes=[(20, 40)])
    mask = np.zeros((1, 20, 40), np.uint8)
    mask[0, :, :20] = 255  # the left half of a wide image
    found = seen(mask, store, 0, config.data)
    assert found.shape == (16, 16, 1)
    assert found[:, :, 0].sum() == 8 * 8
    assert found[4:12, :8, 0].all()


def test_true_masks_are_green_and_said_ones_red(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axis, image, **_: drawn.append(image))
    true, said = (np.zeros((32, 32, 1), dtype=bool) for _ in range(2))
    true[4:12, 4:12], said[20:28, 20:28] = True, True
    pictures.draw_worst(tmp_path / "x.png", [np.zeros((32, 32, 1), np.uint8)], ["a"], [[true, said]])
    assert drawn[0][4, 4].tolist() == list(pictures.RIGHT)
    assert drawn[0][20, 20].tolist() == list(pictures.WRONG)
    assert drawn[0][8, 8].tolist() == drawn[0][24, 24].tolist() == [0, 0, 0]
