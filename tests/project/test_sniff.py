"""`make sniff`: every habit of Kaggle's tables is told from the files alone, and a doubt is never silent."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import processes
import pytest
from conftest import ROOT
from PIL import Image

from src.config import UserError
from src.configfile import load_config
from src.data.sniff.edit import as_yaml, edit_yaml
from src.data.sniff.report import CONFIG_HEAD, sniff
from src.data.tables import load_tables

DEFAULT = """\
# The competition.
competition:
  title: "A # in it: quoted"

task:
  name: multiclass
  metric: null  # null: the task's usual one

data:
  # Columns of train.csv.
  id: id
  target: label
  group: null  # column whose rows must stay in one fold
  train_images: train_images  # folders in data/raw
  test_images: test_images
  image_size: 224  # pixels a side

cv:
  n_folds: 5  # the data section ends above
"""
ROWS = 24  # with rounds of 2, 3, 4 and 5 values in them
PIXELS = cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
MASK = cv2.imencode(".png", np.eye(48, 64, dtype=np.uint8) * 255)[1].tobytes()
GRADED = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64) % 3  # a mask of two classes
CONTENTS = {
    "train_masks": MASK,
    "class_masks": cv2.imencode(".png", GRADED)[1].tobytes(),
}

TRAIN, TEST = [f"a{i:03d}" for i in range(ROWS)], [f"b{i:03d}" for i in range(ROWS)]


def cycle(*values, rows: int = ROWS) -> list:
    return [values[i % len(values)] for i in range(rows)]


def competition(
    project: Path, train: dict, test: dict | None, sample: dict, files=None, raw="data/raw"
) -> Path:
    """A project with these tables and images; without `files` every id has a PNG in the usual folder."""
    folder = project / raw
    if files is None:
        files = [f"train_images/{n}.png" for n in TRAIN] + [f"test_images/{n}.png" for n in TEST]
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(CONTENTS.get(name.partition("/")[0], PIXELS))
    for name, table in (("train", train), ("test", test), ("sample_submission", sample)):
        if table is not None:
            pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)
    (project / "configs").mkdir(parents=True, exist_ok=True)
    (project / "configs" / "default.yaml").write_text(DEFAULT, encoding="utf-8")
    path = project / "configs" / "baseline.yaml"
    path.write_text("base: default\ntrain:\n  epochs: 3\n", encoding="utf-8")
    return path


def default_of(path: Path) -> str:
    return path.with_name("default.yaml").read_text(encoding="utf-8")


# --- what a case holds: train, test, sample, files, what is found, keys it must be unsure of ----------------


def binary_with_probabilities():
    train, test = {"id": TRAIN, "label": cycle(0, 1, 1)}, {"id": TEST}
    return (
        train,
        test,
        {"id": TEST, "label": 0.5},
        None,
        {"task.name": "binary", "data.target": "label"},
        set(),
    )


def binary_in_words_where_the_sample_shows_a_number():
    train, test = {"id": TRAIN, "sick": cycle("no", "yes")}, {"id": TEST}
    found = {"task.name": "binary", "data.target": "sick"}
    return train, test, {"id": TEST, "sick": 0.5}, None, found, {"task.name"}


def classes_in_words_with_spaces():
    train = {"id": TRAIN, "label": cycle("healthy leaf", "leaf spot", "powdery mildew")}
    found = {"task.name": "multiclass", "data.label_separator": None}
    return train, {"id": TEST}, {"id": TEST, "label": "healthy leaf"}, None, found, set()


def classes_that_are_numbers_with_leading_zeros():
    train = {"id": TRAIN, "kind": cycle("001", "007", "010")}
    found = {"task.name": "multiclass", "data.target": "kind"}
    return train, {"id": TEST}, {"id": TEST, "kind": "001"}, None, found, set()


def digits_called_label():
    train = {"id": TRAIN, "label": cycle(*range(10))}
    return train, {"id": TEST}, {"id": TEST, "label": 0}, None, {"task.name": "multiclass"}, set()


def few_whole_numbers_of_no_telling_name():
    train = {"id": TRAIN, "outcome": cycle(*range(4))}
    found = {"task.name": "multiclass", "data.target": "outcome"}
    return train, {"id": TEST}, {"id": TEST, "outcome": 0}, None, found, {"task.name"}


def grades_are_ordinal():
    train = {"id": TRAIN, "severity": cycle(*range(5))}
    found = {"task.name": "regression", "data.target": "severity"}
    return train, {"id": TEST}, {"id": TEST, "severity": 0}, None, found, {"task.name"}


def a_probability_a_class():
    train = {"id": TRAIN, "breed": cycle("pug", "boxer", "husky")}
    found = {"task.name": "multiclass", "data.target": "breed"}
    return train, {"id": TEST}, {"id": TEST, "boxer": 0.3, "husky": 0.3, "pug": 0.4}, None, found, set()


def one_hot_columns():
    train = {"id": TRAIN, "rust": cycle(0, 0, 1), "scab": cycle(0, 1, 0), "healthy": cycle(1, 0, 0)}
    found = {"task.name": "multiclass", "data.target": ("rust", "scab", "healthy")}
    return (
        train,
        {"id": TEST},
        {"id": TEST, "rust": 0.2, "scab": 0.2, "healthy": 0.6},
        None,
        found,
        {"task.name"},
    )


def labels_in_columns_with_a_group():
    train = {
        "id": TRAIN,
        "board": cycle("g101", "g102", "g103"),
        "open": cycle(0, 1),
        "short": cycle(1, 1, 0),
    }
    test = {"id": TEST, "board": cycle("g102", "g777")}
    found = {"task.name": "multilabel", "data.target": ("open", "short"), "data.group": "board"}
    return train, test, {"id": TEST, "open": 0.5, "short": 0.5}, None, found, set()


def labels_in_one_cell():
    train = {"Id": TRAIN, "Target": cycle("16 0", "7", "0", "16 7 0", "16")}
    found = {"task.name": "multilabel", "data.id": "Id", "data.target": "Target", "data.label_separator": " "}
    return train, {"Id": TEST}, {"Id": TEST, "Target": "0 16"}, None, found, set()


def long_train_and_long_sample():
    pairs = [(image, kind, i % 2) for i, image in enumerate(TRAIN) for kind in ("cat", "dog", "owl")]
    train = dict(zip(("image", "animal", "present"), map(list, zip(*pairs, strict=True)), strict=True))
    sample = {"row": [f"{image}_{kind}" for image in TEST for kind in ("cat", "dog", "owl")], "present": 0.5}
    found = {"task.name": "multilabel", "data.id": "image", "data.long": "animal", "data.target": "present"}
    return train, {"image": TEST}, sample, None, found, set()


def only_true_pairs_listed():
    pairs = [
        (image, kind)
        for i, image in enumerate(TRAIN)
        for kind in (["cat"], ["dog", "owl"], ["owl", "cat"])[i % 3]
    ]
    train = dict(zip(("id", "animal"), map(list, zip(*pairs, strict=True)), strict=True))
    sample = {"id": TEST, "cat": 0.5, "dog": 0.5, "owl": 0.5}
    found = {"task.name": "multilabel", "data.long": "animal", "data.target": "animal"}
    return train, {"id": TEST}, sample, None, found, set()


def amounts():
    train = {"id": TRAIN, "biomass": [i * 1.37 for i in range(ROWS)]}
    return train, {"id": TEST}, {"id": TEST, "biomass": 0}, None, {"task.name": "regression"}, set()


def counts_where_the_sample_shows_decimals():
    train = {"id": TRAIN, "n_cells": range(1, ROWS + 1)}
    return train, {"id": TEST}, {"id": TEST, "n_cells": 12.0}, None, {"task.name": "regression"}, set()


def several_amounts():
    train = {"id": TRAIN, "x": [i * 1.5 for i in range(ROWS)], "y": [i * 2.5 for i in range(ROWS)]}
    found = {"task.name": "regression", "data.target": ("x", "y")}
    return train, {"id": TEST}, {"id": TEST, "x": 0, "y": 0}, None, found, set()


def masks_in_files():
    files = [f"train_images/{n}.jpg" for n in TRAIN] + [f"test_images/{n}.jpg" for n in TEST]
    files += [f"train_masks/{n}.png" for n in TRAIN]
    train = {"id": [f"{n}.jpg" for n in TRAIN], "width": cycle(64, 32)}
    test = {"id": [f"{n}.jpg" for n in TEST], "width": 64}
    found = {
        "task.name": "segmentation",
        "data.train_masks": "train_masks",
        "data.rle": None,
        "data.mask_classes": None,
    }
    return train, test, {"id": test["id"], "rle": ""}, files, found, set()


def masks_of_two_classes_in_files():
    files = [f"train_images/{n}.png" for n in TRAIN] + [f"test_images/{n}.png" for n in TEST]
    files += [f"class_masks/{n}.png" for n in TRAIN]
    sample = {"id": [f"{n}_{kind}" for n in TEST for kind in (1, 2)], "rle": ""}
    found = {
        "task.name": "segmentation",
        "data.train_masks": "class_masks",
        "data.mask_classes": ("1", "2"),
    }
    return {"id": TRAIN}, {"id": TEST}, sample, files, found, {"data.mask_classes"}


def masks_as_run_lengths_of_several_objects():
    rows = [image for image in TRAIN for _ in range(2)]
    train = {"ImageId": rows, "EncodedPixels": cycle("1 3 10 2", "100 5", rows=len(rows))}
    found = {
        "task.name": "segmentation",
        "data.id": "ImageId",
        "data.rle": "EncodedPixels",
        "data.long": None,
    }
    return train, None, {"ImageId": TEST, "EncodedPixels": "1 1"}, None, found, set()


def masks_as_run_lengths_by_class():
    rows = [(image, kind) for image in TRAIN for kind in (1, 2, 3)]
    train = {"id": [r[0] for r in rows], "class": [r[1] for r in rows]}
    train["segmentation"] = cycle("1 3 10 2", "", rows=len(rows))
    sample = {
        "id": [n for n in TEST for _ in (1, 2, 3)],
        "class": cycle(1, 2, 3, rows=3 * ROWS),
        "predicted": "",
    }
    found = {"task.name": "segmentation", "data.rle": "segmentation", "data.long": "class"}
    return train, {"id": TEST}, sample, None, found, set()


def identities_with_a_new_one():
    train = {"Image": [f"{n}.png" for n in TRAIN], "Id": [f"w_{i // 4}" for i in range(ROWS)]}
    sample = {"Image": [f"{n}.png" for n in TEST], "Id": "new_whale w_1 w_2 w_3 w_4"}
    found = {
        "task.name": "retrieval",
        "data.id": "Image",
        "data.target": "Id",
        "data.test_csv": None,
        "data.new_label": "new_whale",
    }
    return train, None, sample, None, found, set()


def identities_with_several_answers_and_no_new_one():
    names = [f"w_{i}" for i in range(60)]
    images = [f"c{i:03d}" for i in range(180)]
    train = {"Image": [f"{n}.png" for n in images], "Id": cycle(*names, rows=180)}
    files = [f"train_images/{n}.png" for n in images] + [f"test_images/{n}.png" for n in TEST]
    sample = {"Image": [f"{n}.png" for n in TEST], "Id": "w_1 w_2 w_3"}
    found = {"task.name": "retrieval", "data.target": "Id", "data.new_label": None}
    return train, None, sample, files, found, {"task.name"}


def images_in_several_folders_named_by_a_column():
    train = {
        "id": range(ROWS),
        "file": [f"part{i % 2}/{n}.png" for i, n in enumerate(TRAIN)],
        "label": cycle("a", "b", "c"),
    }
    test = {"id": range(100, 100 + ROWS), "file": [f"holdout/{n}.png" for n in TEST]}
    files = [*train["file"], *test["file"]]
    found = {"data.image": "file", "data.train_images": ("part0", "part1"), "data.test_images": "holdout"}
    return train, test, {"id": test["id"], "label": "a"}, files, found, set()


def train_and_test_images_in_one_folder_by_class():
    files = [f"images/{'cat' if i % 2 else 'dog'}/{n}.jpeg" for i, n in enumerate(TRAIN)]
    files += [f"images/unknown/{n}.jpeg" for n in TEST]
    train = {"id": TRAIN, "label": cycle("dog", "cat", "owl")}
    found = {"data.train_images": "images", "data.test_images": "images/unknown"}
    return train, {"id": TEST}, {"id": TEST, "label": "cat"}, files, found, set()


def a_target_that_only_its_name_gives_away():
    train = {"id": TRAIN, "source": cycle("x", "y", "z"), "label": cycle("cat", "dog", "owl")}
    found = {"data.target": "label", "task.name": "multiclass"}
    return train, {"id": TEST}, {"id": TEST, "prediction": "cat"}, None, found, {"data.target"}


def a_group_of_which_it_is_not_sure():
    train = {"id": TRAIN, "site": cycle("torso", "arm", "leg", "head"), "label": cycle("a", "b", "c")}
    found = {"data.group": "site"}
    return (
        train,
        {"id": TEST, "site": cycle("arm", "leg")},
        {"id": TEST, "label": "a"},
        None,
        found,
        {"data.group"},
    )


def a_measurement_is_no_group():
    train = {"id": TRAIN, "age": cycle(30, 40, 50), "label": cycle("a", "b", "c")}
    return train, {"id": TEST, "age": 30}, {"id": TEST, "label": "a"}, None, {"data.group": None}, set()


CASES = [
    binary_with_probabilities,
    binary_in_words_where_the_sample_shows_a_number,
    classes_in_words_with_spaces,
    classes_that_are_numbers_with_leading_zeros,
    digits_called_label,
    few_whole_numbers_of_no_telling_name,
    grades_are_ordinal,
    a_probability_a_class,
    one_hot_columns,
    labels_in_columns_with_a_group,
    labels_in_one_cell,
    long_train_and_long_sample,
    only_true_pairs_listed,
    amounts,
    counts_where_the_sample_shows_decimals,
    several_amounts,
    masks_in_files,
    masks_of_two_classes_in_files,
    masks_as_run_lengths_of_several_objects,
    masks_as_run_lengths_by_class,
    identities_with_a_new_one,
    identities_with_several_answers_and_no_new_one,
    images_in_several_folders_named_by_a_column,
    train_and_test_images_in_one_folder_by_class,
    a_target_that_only_its_name_gives_away,
    a_group_of_which_it_is_not_sure,
    a_measurement_is_no_group,
]


@pytest.mark.parametrize("case", CASES, ids=lambda function: function.__name__)
def test_the_files_alone_tell_what_they_are_and_the_config_says_it(tmp_path, capsys, case):
    train, test, sample, files, expected, unsure = case()
    path = competition(tmp_path, train, test, sample, files)
    findings = sniff(path)
    printed = capsys.readouterr().out
    assert {key: findings.get(key) for key in expected} == expected
    doubted = {line.key for line in findings.lines if line.unsure} - {"task.metric", "balance"}
    assert doubted == unsure
    settings = load_config(path).settings()
    plain = lambda value: list(value) if isinstance(value, tuple) else value  # noqa: E731
    written = {key: settings[key.split(".")[0]][key.split(".")[1]] for key in expected}
    assert written == {key: plain(value) for key, value in expected.items()}
    assert default_of(path).count("# unsure: ") == len(unsure)
    assert [key for key in unsure if f"\n  {key}: " not in printed.split("Unsure of")[1]] == []
    assert default_of(path).startswith(
        '# The competition.\ncompetition:\n  title: "A # in it: quoted"\n\ntask:\n'
    )
    assert default_of(path).endswith("\n\ncv:\n  n_folds: 5  # the data section ends above\n")


@pytest.mark.parametrize("case", CASES, ids=lambda function: function.__name__)
def test_a_second_look_changes_nothing(tmp_path, capsys, case):
    path = competition(tmp_path, *case()[:4])
    first = sniff(path).settings()
    text = default_of(path)
    capsys.readouterr()
    assert sniff(path).settings() == first
    assert default_of(path) == text
    assert "nothing to write" in capsys.readouterr().out


@pytest.mark.parametrize("case", CASES, ids=lambda function: function.__name__)
def test_what_was_found_is_what_stage_01_can_read(tmp_path, case):
    path = competition(tmp_path, *case()[:4])
    sniff(path)
    config = load_config(path)
    tables = load_tables(config)
    raw = pd.read_csv(tmp_path / "data" / "raw" / "train.csv")
    assert tables.train[config.data.id].tolist() == list(dict.fromkeys(raw[config.data.id].astype(str)))
    assert len(tables.train) == len(tables.targets) == len(tables.images["train"])
    assert set(tables.form.images) == set(tables.test[config.data.id])
    if config.data.train_masks is not None:
        assert [mask.stem for mask in tables.masks] == TRAIN


def test_the_tables_may_lie_one_folder_down(tmp_path):
    train, test, sample, *_ = binary_with_probabilities()
    path = competition(tmp_path, train, test, sample, raw="data/raw/the-competition")
    assert sniff(path)["data.raw"] == "data/raw/the-competition"
    assert load_config(path).data.raw == "data/raw/the-competition"
    text = default_of(path)
    sniff(path)
    assert default_of(path) == text


def test_the_sizes_suggest_an_image_size_and_say_what_the_files_are(tmp_path):
    findings = sniff(competition(tmp_path, *binary_with_probabilities()[:4]))
    assert findings["data.image_size"] == 64  # of 64x48: the side of a square as large is 55
    assert (findings["sizes"], findings["images"]) == ("64x48", "PNG RGB, 8 bits (24)")


def test_class_balance_and_metric_candidates_are_told(tmp_path, capsys):
    sniff(competition(tmp_path, *binary_with_probabilities()[:4]))
    printed = capsys.readouterr().out
    assert "1 66.7%, 0 33.3%" in printed
    assert "often one of roc_auc, log_loss" in printed
    assert "task.metric: null; the files cannot say" in printed


def test_hidden_labels_are_not_looked_at(tmp_path):
    path = competition(tmp_path, *binary_with_probabilities()[:4])
    (tmp_path / "data" / "raw" / "test_solution.csv").write_bytes(b"\xff not even text")
    assert sniff(path)["data.test_csv"] == "test.csv"


# --- classes of masks, and the answer for new identities ----------------------------------------------------


def with_masks(project: Path, content: bytes, suffix: str = ".png") -> Path:
    """The competition of masks in files, all of them this one."""
    path = competition(project, *masks_in_files()[:4])
    for mask in (project / "data" / "raw" / "train_masks").iterdir():
        mask.unlink()
        mask.with_suffix(suffix).write_bytes(content)
    return path


def png(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()


def palette() -> bytes:
    """The numbers of three colours, as PASCAL VOC has them; the colours' own greys are 0, 38 and 75."""
    image = Image.fromarray(GRADED)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, GRADED.astype(np.float64))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "suffix", "classes"),
    [
        (png(GRADED), ".png", ("1", "2")),
        (png(np.where(GRADED > 0, np.uint8(5), np.uint8(0))), ".png", ("1", "2", "3", "4", "5")),
        (png(GRADED.astype(np.uint16)), ".png", ("1", "2")),
        (palette(), ".png", ("1", "2")),
        (array(), ".npy", ("1", "2")),
        (png(np.minimum(GRADED, 1)), ".png", None),
        (png(np.minimum(GRADED, 1) * np.uint8(255)), ".png", None),
        (png(GRADED * np.uint8(100)), ".png", None),
        (b"no mask at all", ".png", None),
    ],
    ids=["1 and 2", "5 alone", "16 bits", "palette", "npy", "0 and 1", "0 and 255", "greys", "no image"],
)
def test_several_small_values_of_a_mask_are_classes_whose_names_it_cannot_know(
    tmp_path, content, suffix, classes
):
    path = with_masks(tmp_path, content, suffix)
    findings = sniff(path)
    assert findings.get("data.mask_classes") == classes
    assert load_config(path).data.mask_classes == classes
    doubts = {line.key: line.unsure for line in findings.lines if line.unsure}
    assert ("data.mask_classes" in doubts) == (classes is not None)
    assert ("# unsure: give the classes their names" in default_of(path)) == (classes is not None)


def test_classes_that_were_given_their_names_are_kept_and_no_doubt_is_left(tmp_path, capsys):
    path = with_masks(tmp_path, png(GRADED))
    sniff(path)
    ground = path.with_name("default.yaml")
    named = default_of(path).replace('["1", "2"]', "[cell, wall]")
    ground.write_text(named.replace("  # unsure: give the classes their names\n", ""), encoding="utf-8")
    mine = default_of(path)
    findings = sniff(path)
    assert findings["data.mask_classes"] == ("cell", "wall")
    assert default_of(path) == mine
    assert "data.mask_classes: [cell, wall], where the files say [1, 2]" in capsys.readouterr().out


def test_too_few_names_for_the_values_in_the_masks_are_replaced_in_sight(tmp_path, capsys):
    path = with_masks(tmp_path, png(GRADED))
    ground = path.with_name("default.yaml")
    ground.write_text(DEFAULT.replace("  id: id\n", "  id: id\n  mask_classes: [cell]\n"), encoding="utf-8")
    sniff(path)
    assert load_config(path).data.mask_classes == ("1", "2")
    assert "[cell] stood there, which the files do not bear out" in capsys.readouterr().out


def test_names_that_only_the_sample_gives_are_asked_for_since_their_order_is_nowhere(tmp_path, capsys):
    """Taken in the sample's order, a wrong one would show in no CV."""
    train, test, _, files, *_ = masks_of_two_classes_in_files()
    sample = {"id": [f"{n}_{kind}" for n in TEST for kind in ("wall", "cell")], "rle": ""}
    path = competition(tmp_path, train, test, sample, files)
    assert sniff(path)["data.mask_classes"] == ("1", "2")
    says = (
        "its rows are about wall, cell, the masks' classes are called 1, 2; "
        "name them so in data.mask_classes, in the order of the masks' values"
    )
    assert says in capsys.readouterr().out
    with pytest.raises(UserError, match=rf"sample_submission\.csv: {says}$"):
        load_tables(load_config(path))
    tables = load_tables(load_config(path, ["data.mask_classes=[cell, wall]"]))
    assert tables.form.classes == ("wall", "cell") * ROWS
    assert tables.form.images == tuple(n for n in TEST for _ in range(2))


@pytest.mark.parametrize("label", ["new_whale", "new_id", "unknown", "NEW_individual", "none_of_them"])
def test_the_answer_for_new_identities_is_the_one_of_the_sample_that_train_lacks(tmp_path, label):
    train, _, sample, *_ = identities_with_a_new_one()
    path = competition(tmp_path, train, None, sample | {"Id": f"w_1 {label} w_2"})
    findings = sniff(path)
    assert findings["data.new_label"] == load_config(path).data.new_label == label
    assert {line.key for line in findings.lines if line.unsure} == {"task.metric"}


@pytest.mark.parametrize("answers", ["w_1 w_2 w_3", "newt_1 w_2", "renew w_1"])
def test_a_label_that_train_has_or_that_only_begins_like_new_is_no_answer_for_new_ones(tmp_path, answers):
    names = ["newt_1", "renew", *(f"w_{i}" for i in range(58))]
    train, _, sample, files, *_ = identities_with_several_answers_and_no_new_one()
    path = competition(
        tmp_path, train | {"Id": cycle(*names, rows=180)}, None, sample | {"Id": answers}, files
    )
    assert sniff(path).get("data.new_label") is None


def test_an_own_answer_for_new_identities_is_kept(tmp_path, capsys):
    path = competition(tmp_path, *identities_with_a_new_one()[:4])
    ground = path.with_name("default.yaml")
    ground.write_text(DEFAULT.replace("  id: id\n", "  id: id\n  new_label: nobody\n"), encoding="utf-8")
    assert sniff(path)["data.new_label"] == load_config(path).data.new_label == "nobody"
    assert "data.new_label: nobody, where the files say new_whale" in capsys.readouterr().out


# --- the competitor's own values ----------------------------------------------------------------------------


def test_a_value_that_works_is_kept_and_both_are_printed(tmp_path, capsys):
    path = competition(tmp_path, *few_whole_numbers_of_no_telling_name()[:4])
    ground = path.with_name("default.yaml")
    text = DEFAULT.replace("name: multiclass", "name: regression").replace(
        "image_size: 224", "image_size: 96"
    )
    ground.write_text(text, encoding="utf-8")
    sniff(path)
    assert (load_config(path).task.name, load_config(path).data.image_size) == ("regression", 96)
    printed = capsys.readouterr().out
    assert "task.name: regression, where the files say multiclass" in printed
    assert "data.image_size: 96, where the files say 64" in printed


def test_a_value_that_cannot_work_is_replaced_in_sight(tmp_path, capsys):
    path = competition(tmp_path, *binary_with_probabilities()[:4])
    ground = path.with_name("default.yaml")
    text = DEFAULT.replace("name: multiclass", "name: segmentation").replace(
        "target: label", "target: nothing"
    )
    ground.write_text(text.replace("metric: null", "metric: dice"), encoding="utf-8")
    sniff(path)
    config = load_config(path)
    assert (config.task.name, config.task.metric, config.data.target) == ("binary", None, "label")
    printed = capsys.readouterr().out
    assert "segmentation stood there, which the files do not bear out" in printed
    assert "-  name: segmentation" in printed
    assert "dice is no metric of binary" in printed


def test_a_change_after_the_first_look_stands_until_force(tmp_path):
    path = competition(tmp_path, *a_group_of_which_it_is_not_sure()[:4])
    sniff(path)
    ground = path.with_name("default.yaml")
    mine = default_of(path).replace("image_size: 64", "image_size: 224")  # back to the default, on purpose
    ground.write_text(mine, encoding="utf-8")
    sniff(path)
    assert default_of(path) == mine
    sniff(path, force=True)
    assert load_config(path).data.image_size == 64


def test_a_value_of_the_command_line_is_taken_as_known(tmp_path):
    train, test, sample, *_ = binary_with_probabilities()
    path = competition(tmp_path, train | {"also": cycle(0, 1)}, test, sample)
    (tmp_path / "data" / "raw" / "train.csv").rename(tmp_path / "data" / "raw" / "labels.csv")
    findings = sniff(path, ["data.train_csv=labels.csv", "data.target=also"])
    assert (findings["data.train_csv"], findings["data.target"]) == ("labels.csv", "also")
    assert load_config(path).data.target == "also"


def test_an_experiment_that_says_otherwise_is_named(tmp_path, capsys):
    path = competition(tmp_path, *binary_with_probabilities()[:4])
    path.write_text("base: default\ndata:\n  target: gone\n", encoding="utf-8")
    sniff(path)
    assert f"{path} sets data.target=gone over what default.yaml says" in capsys.readouterr().out


def test_a_dry_look_writes_nothing(tmp_path, capsys):
    path = competition(tmp_path, *amounts()[:4])
    sniff(path, dry=True)
    assert default_of(path) == DEFAULT
    assert "+  name: regression" in capsys.readouterr().out


def test_a_file_that_would_not_load_is_left_as_it_was(tmp_path):
    path = competition(tmp_path, *binary_with_probabilities()[:4])
    text = DEFAULT.replace("name: multiclass", "name: regression") + "\ntrain:\n  loss: huber\n"
    path.with_name("default.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"was left as it was: with what was found in it, .*huber"):
        sniff(path)
    assert default_of(path) == text


# --- what cannot be looked at -------------------------------------------------------------------------------


def run_it(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "src.data.sniff", "--config", str(project / "configs" / "baseline.yaml")]
    return processes.run([*command, *words], cwd=ROOT, timeout=100)


def test_the_command_looks_writes_and_ends_well(tmp_path):
    competition(tmp_path, *binary_with_probabilities()[:4])
    done = run_it(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("What is in data/raw\n")
    assert done.stdout.endswith("\nNext: `make folds`\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda raw: [path.unlink() for path in raw.glob("*.csv")],
            "there is no CSV file; Kaggle's files belong",
        ),
        (lambda raw: (raw / "train.csv").write_bytes(b""), "train.csv: the file is empty"),
        (lambda raw: (raw / "sample_submission.csv").unlink(), "none of test.csv, train.csv is the sample"),
    ],
)
def test_a_folder_that_cannot_be_read_is_one_plain_sentence(tmp_path, capsys, spoil, said):
    path = competition(tmp_path, *binary_with_probabilities()[:4])
    spoil(tmp_path / "data" / "raw")
    with pytest.raises(UserError) as caught:
        sniff(path)
    assert said in str(caught.value)
    assert default_of(path) == DEFAULT


def test_an_archive_that_was_not_unpacked_is_named_with_status_2(tmp_path):
    path = competition(tmp_path, *binary_with_probabilities()[:4])
    for table in (tmp_path / "data" / "raw").glob("*.csv"):
        table.unlink()
    (tmp_path / "data" / "raw" / "digits.zip").touch()
    done = run_it(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "only archives (digits.zip): unpack them first" in done.stderr
    assert default_of(path) == DEFAULT


def test_images_that_are_not_there_are_a_doubt_and_no_crash(tmp_path):
    train, test, sample, *_ = binary_with_probabilities()
    findings = sniff(competition(tmp_path, train, test, sample, files=["train_images/other.png"]))
    doubts = {line.key: line.unsure for line in findings.lines if line.unsure}
    assert "are all images unpacked?" in doubts["data.train_images"]
    assert findings["data.train_images"] == "train_images"


def test_a_doubt_goes_when_the_files_have_come(tmp_path):
    train, test, sample, *_ = binary_with_probabilities()
    path = competition(tmp_path, train, test, sample, files=["train_images/other.png"])
    sniff(path)
    assert "# unsure: no image answers" in default_of(path)
    for folder, names in (("train_images", TRAIN), ("test_images", TEST)):
        (tmp_path / "data" / "raw" / folder).mkdir(exist_ok=True)
        for name in names:
            (tmp_path / "data" / "raw" / folder / f"{name}.png").write_bytes(PIXELS)
    sniff(path)
    assert "# unsure" not in default_of(path)


def test_linked_folders_are_looked_into_and_a_circle_of_links_ends(tmp_path):
    path = competition(tmp_path, *binary_with_probabilities()[:4])
    images = tmp_path / "data" / "raw" / "train_images"
    images.rename(tmp_path / "elsewhere")
    images.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "data" / "raw")
    findings = sniff(path)
    assert (findings["data.train_images"], findings["data.image"]) == ("train_images", None)
    assert {line.key for line in findings.lines if line.unsure} == {"task.metric"}


# --- the edit of single lines -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["no", "1", "00123", "a b", "a#b", "null", 'q"uote', "naïve", "x: y", "", "-", "1e5"]
)
def test_a_name_is_quoted_where_yaml_would_read_something_else(tmp_path, value):
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "default.yaml"
    path.write_text(edit_yaml("", "data", {"id": value, "target": (value, "other")}, {}), encoding="utf-8")
    config = load_config(path)
    assert (config.data.id, config.data.target) == (value, (value, "other"))


def test_only_the_named_lines_change_and_comments_stay():
    text = edit_yaml(
        DEFAULT, "data", {"group": "site", "train_images": ("a", "b"), "long": "kind"}, {"group": "who knows"}
    )
    before, after = DEFAULT.splitlines(), text.splitlines()
    assert [line for line in before if line not in after] == [
        "  group: null  # column whose rows must stay in one fold",
        "  train_images: train_images  # folders in data/raw",
    ]
    assert [line for line in after if line not in before] == [
        "  # unsure: who knows",
        "  group: site  # column whose rows must stay in one fold",
        "  train_images: [a, b]  # folders in data/raw",
        "  long: kind",
    ]
    assert after.index("  long: kind") == after.index("  image_size: 224  # pixels a side") + 1


def test_a_doubt_takes_the_place_of_an_earlier_one_and_goes_with_it():
    once = edit_yaml(DEFAULT, "data", {"group": "a"}, {"group": "first"})
    twice = edit_yaml(once, "data", {"group": "b"}, {"group": "second"})
    assert ("first" in twice, twice.count("# unsure: ")) == (False, 1)
    assert edit_yaml(twice, "data", {"group": None}, {}) == DEFAULT


@pytest.mark.parametrize(
    "text",
    [
        "data: {id: a, target: b}  # short\n",
        "data:\n  id: a\n  target:\n    - b\n    - c\n",
        "data:\n  id: a\n  target:\n  - b\n  - c\n",
        "data:\n    id: 'a # b'  # note\n    target: b\n",
        "data:\n",
        "data: null\ncv:\n  seed: 1\n",
        "cv:\n  seed: 1\n",
        "",
    ],
)
def test_every_way_to_write_a_section_can_be_edited(tmp_path, text):
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "default.yaml"
    path.write_text(
        edit_yaml(text, "data", {"id": "x", "target": "y", "group": "g"}, {"id": "?"}, CONFIG_HEAD),
        encoding="utf-8",
    )
    data = load_config(path).data
    assert (data.id, data.target, data.group) == ("x", "y", "g")
    assert load_config(path).cv.seed == (1 if "seed" in text else 42)


def test_a_value_is_written_as_yaml_reads_it():
    assert [as_yaml(v) for v in (None, True, 3, 0.5, ("a", "b c"), [" "])] == [
        "null",
        "true",
        "3",
        "0.5",
        '[a, "b c"]',
        '[" "]',
    ]


def test_the_first_run_of_01_without_a_data_section_looks_first_and_goes_on(project, stage):
    import yaml

    config = project / "configs" / "baseline.yaml"
    settings = {key: value for key, value in yaml.safe_load(config.read_text()).items() if key != "data"}
    config.write_text(yaml.safe_dump(settings))
    first = stage(project, "01_folds.py")
    assert first.returncode == 0, first.stderr
    assert "looking at the raw files first" in first.stdout
    found = load_config(config)
    assert "data" in found.model_fields_set
    assert (found.data.id, found.data.target, found.data.image_size) == ("id", "label", 32)
    assert (project / "data" / "folds.csv").exists()
    again = stage(project, "01_folds.py")
    assert "looking at the raw files first" not in again.stdout
    assert "up to date" in again.stdout
