"""Extra features of a stack: what they are read from, how words become codes, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from src.artifacts import write_json, write_parquet
from src.config import Config, UserError
from src.ensemble.features import StackFeatures, find_features, read_features
from src.steps import images_step, stack_step

TRAIN = {
    "id": ["a", "b", "c", "d"],
    "label": ["x", "y", "x", "y"],
    "patient": ["p", "p", "q", "r"],
    "age": ["31", "", "7.5", "60"],
    "site": ["north", "south", "north", ""],
    "seen": ["1", "2", "3", "4"],
}
TEST = {"id": ["u", "v"], "patient": ["s", "t"], "age": ["44", "9"], "site": ["south", "west"]}


@pytest.fixture
def root(tmp_path):
    """Tables, image folders, and the index of a cache."""
    raw = tmp_path / "data/raw"
    raw.mkdir(parents=True)
    for name, table in (("train", TRAIN), ("test", TEST)):
        pd.DataFrame(table).to_csv(raw / f"{name}.csv", index=False)
        (raw / f"{name}_images").mkdir()
    pd.DataFrame({"id": TEST["id"], "label": "x"}).to_csv(raw / "sample_submission.csv", index=False)
    (tmp_path / "data/folds.csv").write_text("id,fold\n")
    index = pd.DataFrame(
        {
            "set": ["train"] * 4 + ["test"] * 2,
            "id": TRAIN["id"] + TEST["id"],
            "height": [10, 20, 30, 40, 50, 60],
            "width": [20, 20, 15, 80, 25, 90],
        }
    )
    folder = images_step(config(tmp_path, "age")).folder
    write_parquet(folder / "index.parquet", index)
    write_json(folder / "statistics.json", {"contents": "one"})
    return tmp_path


def config(root, *names: str, **more) -> Config:
    return Config(root=root, stack={"features": names}, **more)


def read(root, *names: str, ids=("a", "b", "c", "d"), test=("u", "v")):
    return read_features(config(root, *names), list(ids), list(test))


def test_numbers_words_and_the_size_of_the_image_in_the_order_they_are_named(root):
    features, train, test = read(root, "site", "age", "height", "aspect")
    assert features.names == ("site", "age", "height", "aspect")
    assert features.categories == (0,)
    nan = np.nan
    np.testing.assert_array_equal(
        train, [[0, 31, 10, 2], [1, nan, 20, 1], [0, 7.5, 30, 0.5], [nan, 60, 40, 2]]
    )
    np.testing.assert_array_equal(test, [[1, 44, 50, 0.5], [nan, 9, 60, 1.5]])  # nobody saw "west"


def test_rows_come_in_the_order_that_is_asked_for(root):
    _, train, test = read(root, "age", "width", ids=("d", "a"), test=("v", "u"))
    np.testing.assert_array_equal(train, [[60, 80], [31, 20]])
    np.testing.assert_array_equal(test, [[9, 90], [44, 25]])


def test_what_is_stored_encodes_new_rows_alike(root):
    features, _, test = read(root, "site", "age")
    again = StackFeatures.from_json(json.loads(json.dumps(features.as_json())))
    np.testing.assert_array_equal(again.encode(TEST), test)
    np.testing.assert_array_equal(again.encode({"site": ["south"], "age": [44]}), [[1, 44]])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("seen", r"`seen` is a column of the train table alone, the test rows have none"),
        ("nobody", r"`nobody` is no column of .*train.csv, and not height, width or aspect"),
    ],
)
def test_a_column_that_one_of_the_tables_lacks_is_refused(root, name, sentence):
    with pytest.raises(UserError, match=sentence):
        read(root, name)


@pytest.mark.parametrize(
    ("name", "key"), [("label", "data.target"), ("id", "data.id"), ("patient", "data.group")]
)
def test_the_answer_the_id_and_the_group_are_no_features(name, key):
    with pytest.raises(ValueError, match=rf"stack.features: '{name}' is the column of {key}"):
        Config(stack={"features": (name,)}, data={"group": "patient"})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stack": {"features": ()}}, "stack.features is empty"),
        ({"stack": {"features": ("a", "a")}}, "stack.features names 'a' twice"),
        ({"stack": {"blenders": ("linear", "linear")}}, "stack.blenders names 'linear' twice"),
        ({"stack": {"features": ("a",), "blenders": ("linear",)}}, "looked at by trees alone"),
        ({"stack": {"features": ("a",)}, "task": {"name": "segmentation"}}, "segmentation stacks pixels"),
        ({"stack": {"features": ("a",)}, "task": {"name": "retrieval"}}, "retrieval stacks pairs"),
        ({"stack": {"blenders": ("catboost",)}}, "stack.blenders"),
    ],
)
def test_a_stack_that_makes_no_sense_is_refused_with_the_reason(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(**changes)


def test_a_column_of_names_is_refused_and_one_of_few_words_is_not():
    names = {"name": [f"n{i}" for i in range(40)], "site": ["a", "b"] * 20}
    assert find_features(("site",), names, 40).words == {"site": ["a", "b"]}
    with pytest.raises(UserError, match=r"`name` holds 40 different words in 40 rows, such as 'n0'"):
        find_features(("name",), names, 40)


def test_the_tables_count_in_a_stacks_recipe_where_features_are_read_from_them_and_nowhere_else(root):
    def prints(names):
        return stack_step(Config(root=root, stack={"features": names}), []).fingerprint

    before = prints(None), prints(("age",))
    table = pd.read_csv(root / "data/raw/train.csv", dtype=str)
    table.assign(age="1").to_csv(root / "data/raw/train.csv", index=False)
    after = prints(None), prints(("age",))
    assert before[0] == after[0]
    assert before[1] != after[1]
