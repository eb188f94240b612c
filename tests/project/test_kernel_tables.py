"""What a kernel makes of hidden tables and folders that are not as at home, piece by piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_config
from digits import write_competition

from src.artifacts import read_json, write_json
from src.config import Data
from src.configfile import load_config
from src.kernel import run as kernel_run
from src.kernel.asked import asked_for, made_up, same_columns
from src.kernel.bundle import form_of
from src.kernel.hidden_test import TestSet
from src.kernel.run import last_resort
from src.kernel.search import find_test_images
from src.kernel.summary import Summary, note_fallback, summary_of

FORM = {
    "kind": "long",
    "id_column": "id",
    "value_columns": ["value"],
    "class_column": None,
    "separator": " ",
    "most": 1,
    "pairs": True,
    "columns": ["id", "value"],
    "joint": "_",
    "stems": False,
}
CLASSES = ["cat", "wild_cat", "dog"]


def table(**columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, dtype=str)


# --- the rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "images"),
    [(None, ["a", "a", "b"]), (["a_wild", "b"], ["a_wild", "a", "b"]), (["a.png", "b.png"], None)],
)
def test_an_id_is_cut_where_an_image_of_the_test_table_ends(known, images):
    """`a_wild_cat` is the wild cat of a, or the cat of a_wild where only that image is there."""
    found = table(id=["a_wild_cat", "a_dog", "b_cat"], value=["0"] * 3)
    asked = asked_for(found, Path("s.csv"), FORM, CLASSES, known)
    assert list(asked.form.images) == (images or ["a.png", "a.png", "b.png"])
    assert asked.answered.all()


def test_rows_of_unknown_classes_and_doubled_pairs_are_told_from_the_others():
    found = table(id=["a_cat", "a_dog", "a_fox", "b_cat", "a_cat"], value=["0"] * 5)
    asked = asked_for(found, Path("s.csv"), FORM, CLASSES, None)
    assert asked.answered.tolist() == [False, True, False, True, False]
    assert {reason: int(rows.sum()) for reason, rows in asked.refused.items()} == {
        "duplicate id": 2,
        "unknown class": 1,
    }


def test_a_class_column_may_be_called_otherwise():
    form = FORM | {"class_column": "class", "joint": None, "columns": ["id", "class", "value"]}
    found = table(ID=["a", "a"], Class=["cat", "dog"], value=["0", "0"], note=["x", "y"])
    asked = asked_for(found, Path("s.csv"), form, CLASSES, None)
    assert (asked.form.images, asked.form.classes) == (("a", "a"), ("cat", "dog"))
    written = asked.as_found(asked.sample.assign(value=[0.25, 0.5]))
    expected = found.assign(value=[0.25, 0.5])
    pd.testing.assert_frame_equal(written, expected)


def test_the_sample_that_is_missing_is_made_up_and_read_back():
    for form in (FORM, FORM | {"class_column": "class", "columns": ["id", "class", "value"]}):
        asked = asked_for(made_up(["a", "b"], form, CLASSES), Path("test.csv"), form, CLASSES, ["a", "b"])
        assert list(zip(asked.form.images, asked.form.classes, strict=True)) == [
            (image, one) for image in ("a", "b") for one in CLASSES
        ]
        assert list(asked.as_found(asked.sample).columns) == form["columns"]
    plain = FORM | {"pairs": False, "joint": None}
    assert made_up(["a", "b"], plain, CLASSES)["id"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["id", "value"], {"id": "id", "value": "value"}),
        (["Id", "VALUE"], {"Id": "id", "VALUE": "value"}),
        (["image", "value"], {"image": "id", "value": "value"}),
        (["fold", "image", "value"], {"image": "id", "value": "value"}),
        (["id", "target"], {"id": "id", "target": "value"}),
        (["value", "id", "more"], {"id": "id", "value": "value"}),
    ],
)
def test_columns_are_told_by_name_by_letters_and_by_what_they_hold(columns, expected):
    found = table(**{name: ["0", "0"] for name in columns})
    if "image" in found:
        found["image"] = ["a", "b"]
    assert same_columns(found, ["id", "value"], "id", ["a", "b"]) == expected


def test_where_nothing_can_be_read_the_sample_itself_or_its_columns_are_left(tmp_path):
    write_json(
        tmp_path / "competition.json",
        {"config": {"data": {"sample_csv": "sample.csv"}}, "form": {"columns": ["id", "value"]}},
    )
    assert last_resort(tmp_path, tmp_path).columns.tolist() == ["id", "value"]
    (tmp_path / "sampleSubmission.csv").write_text("id,value\n7,0\n")
    assert last_resort(tmp_path, tmp_path).to_numpy().tolist() == [["7", "0"]]


@pytest.mark.parametrize("rerun", [True, False])
def test_a_mistake_before_the_prior_is_written_still_leaves_a_submission(tmp_path, monkeypatch, rerun):
    """In the run that is scored alone: elsewhere it is raised."""
    mount, working = tmp_path / "mount", tmp_path / "working"
    for folder in (mount, working):
        folder.mkdir()
    about = {"config": {"data": {"sample_csv": "sample.csv"}}, "form": {"columns": ["id", "value"]}}
    write_json(tmp_path / "competition.json", about)
    write_json(tmp_path / "manifest.json", {"versions": {}})
    (mount / "sample.csv").write_text("id,value\n7,0\n8,0\n")
    monkeypatch.setattr(kernel_run, "predict_competition", lambda *_: 1 / 0)
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1" if rerun else "")
    if not rerun:
        with pytest.raises(ZeroDivisionError):
            kernel_run.run(tmp_path, mount, working)
        return
    kernel_run.run(tmp_path, mount, working)
    assert (working / "submission.csv").read_text() == "id,value\n7,0\n8,0\n"
    summary = read_json(working / "summary.json")
    assert (summary["rows"], summary["prior"]) == (2, {"not predicted": 2})
    assert "ZeroDivisionError" in summary["fallback"]


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_what_joins_image_and_class_at_home_is_kept_for_the_hidden_sample(tmp_path, suffix):
    """Ids such as `<image>_<class>`, whose image may lack the extension that the test table has."""
    write_competition(tmp_path / "data/raw", n_train=10, n_test=4, task="masks")
    test = tmp_path / "data/raw/test.csv"
    ids = [name + suffix for name in pd.read_csv(test, dtype=str)["id"]]
    pd.DataFrame({"id": ids}).to_csv(test, index=False)
    pd.DataFrame({"id": ids}).to_parquet(tmp_path / "test.parquet")
    text = "task: {name: segmentation}\ndata: {train_masks: train_masks, mask_classes: [plain, loop]}\n"
    config = load_config(write_config(tmp_path, "masks", text))
    form = form_of(config, tmp_path, ["plain", "loop"])
    assert (form["joint"], form["stems"], form["suffixes"]) == ("_", suffix != "", suffix != "")
    hidden = made_up(["x" + suffix], form, ["plain", "loop"])
    assert hidden["id"].tolist() == ["x_plain", "x_loop"]
    asked = asked_for(hidden, Path("s.csv"), form, ["plain", "loop"], ["x" + suffix])
    assert asked.form.images == ("x" + suffix, "x" + suffix)


# --- the images ---------------------------------------------------------------------------------------------

DATA = Data(train_images="train", test_images="test", train_csv="train.csv", sample_csv="sample.csv")


@pytest.mark.parametrize(
    ("files", "name", "expected"),
    [
        (["test/a.png", "other/a.png"], "a", "test/a.png"),
        (["test/deep/a.png"], "a", "test/deep/a.png"),
        (["hidden/A.PNG"], "a.png", "hidden/A.PNG"),
        (["test/a.jpg"], "a.png", "test/a.jpg"),
        (["hidden/a.JPG"], "a.png", "hidden/a.JPG"),
        (["hidden/a.png"], "test/a.png", "hidden/a.png"),
        (["x/test/a.png", "y/a.png"], "a", "x/test/a.png"),
        (["hidden/p1/a.png", "hidden/p2/a.png"], "p2/a", "hidden/p2/a.png"),
        (["hidden/p1/a.png"], "p2/a", None),  # another patient's
        (["train/a.png"], "a", None),
        (["train_small/a.png"], "a", None),
        (["one/a.png", "two/a.png"], "a", None),
        (["one/a.png", "two/a.png", "two/b.png"], "a", "two/a.png"),
    ],
)
def test_an_image_is_the_one_that_its_name_and_folder_mean(tmp_path, files, name, expected):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    found = find_test_images([name, "b"], tmp_path, DATA)[0]
    assert found == (None if expected is None else tmp_path / expected)


# --- the summary --------------------------------------------------------------------------------------------


def test_rows_are_counted_once_by_the_first_reason(capsys):
    found = table(id=["a_cat", "a_dog", "b_cat", "b_dog", "b_dog", "c_cat"], value=["0"] * 6)
    asked = asked_for(found, Path("s.csv"), FORM, CLASSES, None)
    test = TestSet(asked, ["a", "b", "c"], ["a", "b", "c"], pd.DataFrame(index=["a", "b", "c"]))
    unseen = {"image not found": np.array([False, True, False])}
    made = summary_of(test, unseen)
    assert made == Summary(6, 3, 3, {"duplicate id": 2, "image not found": 1})
    made.warn()
    assert "WARNING" not in capsys.readouterr().out
    summary_of(test, {"image unreadable": np.array([True, True, False])}).warn()
    assert "WARNING: 5 of 6 rows" in capsys.readouterr().out


def test_an_error_is_kept_beside_what_was_written_before_it(tmp_path):
    Summary(4, 4, 0, {"not predicted": 4}).write(tmp_path)
    note_fallback(tmp_path, "KeyError: 'x'")
    assert read_json(tmp_path / "summary.json") == {
        "rows": 4,
        "images": 4,
        "predicted": 0,
        "prior": {"not predicted": 4},
        "fallback": "KeyError: 'x'",
    }
