"""Kaggle's tables: text stays text, and every mistake is one sentence with file, row and what is right."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from src.config import Config, UserError
from src.configfile import load_config
from src.data.submission_form import describe_sample
from src.data.tables import find_images, load_tables, read_table
from src.data.targets import read_targets, target_columns
from src.rawfiles import line_of, line_with
from src.tasks import create_task


def raw(project: Path) -> Path:
    return project / "data" / "raw"


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def rewrite(path: Path, new: list[str]) -> None:
    path.write_text("\n".join(new) + "\n", encoding="utf-8")


def set_line(path: Path, number: int, text: str) -> None:
    """Line `number` as an editor counts, the header being line 1."""
    rewrite(path, [text if i == number else line for i, line in enumerate(lines(path), start=1)])


def load(project: Path, *overrides: str):
    return load_config(project / "configs" / "baseline.yaml", list(overrides))


# --- the mistakes: each spoils the files and gives what the message must hold -------------------------------


def label_column_renamed(project):
    path = raw(project) / "train.csv"
    rewrite(path, ["id,labels", *lines(path)[1:]])
    return "train.csv: there is no column 'label'; did you mean 'labels'? it has id, labels; set data.target"


def id_column_missing_in_test(project):
    path = raw(project) / "test.csv"
    rewrite(path, ["image_id", *lines(path)[1:]])
    return "test.csv: there is no column 'id'; it has image_id; set data.id"


def id_twice_in_train(project):
    path = raw(project) / "train.csv"
    name = lines(path)[4].split(",")[0]
    set_line(path, 8, f"{name},3")
    return (
        f"train.csv, row 8: id {name!r} stands already in row 5 (1 such row(s)); every id should stand once"
    )


def id_twice_in_sample(project):
    path = raw(project) / "sample_submission.csv"
    name = lines(path)[1].split(",")[0]
    rewrite(path, [*lines(path), f"{name},0"])
    return f"sample_submission.csv, row 42: id {name!r} stands already in row 2"


def id_empty(project):
    set_line(raw(project) / "train.csv", 6, ",3")
    return "train.csv, row 6: `id` is empty"


def train_image_missing(project):
    name = lines(raw(project) / "train.csv")[9].split(",")[0]
    (raw(project) / "train_images" / f"{name}.png").unlink()
    return (
        f"train.csv, row 10: no image for `id` {name!r} in ",
        "(1 of 80 missing)",
        f"a file such as {name}.png",
    )


def image_of_a_test_row_missing(project):
    name = lines(raw(project) / "test.csv")[3].split(",")[0]
    (raw(project) / "test_images" / f"{name}.png").unlink()
    return f"test.csv, row 4: no image for `id` {name!r} in ", "(1 of 40 missing)"


def label_empty(project):
    path = raw(project) / "train.csv"
    set_line(path, 12, lines(path)[11].split(",")[0] + ",")
    return "train.csv, row 12: `label` is empty in 1 row(s); every training row needs a label, such as "


def label_nan(project):
    path = raw(project) / "train.csv"
    set_line(path, 12, lines(path)[11].split(",")[0] + ",NaN")
    return "train.csv, row 12: `label` is 'NaN' in 1 row(s)"


def label_left_out(project):
    path = raw(project) / "train.csv"
    set_line(path, 12, lines(path)[11].split(",")[0])
    return "train.csv, row 12: `label` is empty in 1 row(s)"


def one_class_only(project):
    path = raw(project) / "train.csv"
    rewrite(path, ["id,label", *(line.split(",")[0] + ",7" for line in lines(path)[1:])])
    return "train.csv: `label` holds one class only, '7'"


def comma_too_many(project):
    path = raw(project) / "train.csv"
    rewrite(path, ["id,label", *(line + "," for line in lines(path)[1:])])
    return "train.csv: its lines hold more values than there are column names; is there a comma too many?"


def table_of_test_rows_empty(project):
    rewrite(raw(project) / "test.csv", ["id"])
    return "test.csv: there are column names but no rows"


def train_table_of_no_bytes(project):
    (raw(project) / "train.csv").write_bytes(b"")
    return "train.csv: the file is empty"


def train_table_in_latin_1(project):
    (raw(project) / "train.csv").write_bytes("id,label\na,hérisson\n".encode("latin-1"))
    return "train.csv: not a readable CSV"


def train_table_is_an_archive(project):
    (raw(project) / "train.csv").write_bytes(b"PK\x03\x04\xff\xfe\x00\x00")
    return "train.csv: not a readable CSV"


def train_table_gone(project):
    (raw(project) / "train.csv").unlink()
    return "train.csv: the train table is not there; put Kaggle's files in ", "set data.train_csv"


def image_folder_gone(project):
    shutil.rmtree(raw(project) / "test_images")
    return "test_images: the folder of test images is not there; set data.test_images"


def sample_lists_another_row(project):
    path = raw(project) / "sample_submission.csv"
    name = lines(path)[7].split(",")[0]
    set_line(path, 8, "ffffffffff,0")
    return f"test.csv: id {name!r} is not in ", "sample_submission.csv (2 such id(s))"


def sample_columns_are_not_the_classes(project):
    path = raw(project) / "sample_submission.csv"
    classes = [*map(str, range(9)), "ten"]
    rewrite(path, [f"id,{','.join(classes)}", *(line + ",0" * 9 for line in lines(path)[1:])])
    return (
        "sample_submission.csv: its columns are neither one label nor one a class of ",
        "there is none for '9'",
    )


def label_empty_below_blank_lines(project):
    """The row that an editor shows, with blank lines and a line break inside quotes above it."""
    path = raw(project) / "train.csv"
    rows = lines(path)
    rows[4] = '"' + rows[4].replace(",", '\nof two lines",')
    rows[11] = rows[11].split(",")[0] + ","
    rewrite(path, [rows[0], "", "  ", *rows[1:8], "", *rows[8:]])
    return "train.csv, row 16: `label` is empty in 1 row(s)"


def class_of_one_row(project):
    path = raw(project) / "train.csv"
    set_line(path, 20, lines(path)[19].split(",")[0] + ",unicorn")
    return "train.csv: class 'unicorn' has 1 row(s), fewer than cv.n_folds=2", "cv.allow_rare=true"


MISTAKES = [
    label_column_renamed,
    id_column_missing_in_test,
    id_twice_in_train,
    id_twice_in_sample,
    id_empty,
    train_image_missing,
    image_of_a_test_row_missing,
    label_empty,
    label_nan,
    label_left_out,
    label_empty_below_blank_lines,
    one_class_only,
    comma_too_many,
    table_of_test_rows_empty,
    train_table_of_no_bytes,
    train_table_in_latin_1,
    train_table_is_an_archive,
    train_table_gone,
    image_folder_gone,
    sample_lists_another_row,
    sample_columns_are_not_the_classes,
    class_of_one_row,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda function: function.__name__)
def test_a_mistake_is_one_sentence_with_status_2_and_touches_nothing_made_before(
    prepared, stage_here, snapshot, mistake
):
    said = mistake(prepared)
    before = snapshot(prepared)
    done = stage_here(prepared, "01_folds.py")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {raw(prepared)}")
    assert [part for part in ((said,) if isinstance(said, str) else said) if part not in done.stderr] == []
    assert done.stderr.count("\n") == 1
    assert snapshot(prepared) == before


def test_a_mistake_on_a_fresh_project_leaves_nothing_behind(project, stage, snapshot):
    id_twice_in_train(project)
    before = snapshot(project)
    done = stage(project, "01_folds.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "row 8: id " in done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(project) == before


def test_a_group_column_that_is_missing_or_empty_is_named(project):
    with pytest.raises(UserError, match=r"train\.csv: there is no column 'patient'.*set data\.group"):
        load_tables(load(project, "data.group=patient"))
    path = raw(project) / "train.csv"
    rewrite(path, ["id,label,patient", *(f"{line},p{i % 9}" for i, line in enumerate(lines(path)[1:]))])
    set_line(path, 30, lines(path)[29].rsplit(",", 1)[0] + ", ")
    with pytest.raises(UserError, match=r"train\.csv, row 30: `patient` is empty"):
        load_tables(load(project, "data.group=patient"))


def test_a_table_that_may_not_be_read_is_named(project, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pd, "read_csv", refuse)
    with pytest.raises(UserError, match=r"train\.csv: cannot be read \(Permission denied\)"):
        read_table(raw(project) / "train.csv")


# --- rare classes -------------------------------------------------------------------------------------------


def test_a_class_of_one_row_is_refused_with_five_folds_and_spread_with_allow_rare(project, stage_here):
    path = raw(project) / "train.csv"
    more = [f"{name.split(',')[0]},{i % 5}" for i, name in enumerate(lines(path)[1:])]
    rewrite(path, ["id,label", *more])
    set_line(path, 20, lines(path)[19].split(",")[0] + ",unicorn")
    done = stage_here(project, "01_folds.py", "cv.n_folds=5")
    assert done.returncode == 2
    assert (
        "train.csv: class 'unicorn' has 1 row(s), fewer than cv.n_folds=5 (1 such class(es))" in done.stderr
    )
    done = stage_here(project, "01_folds.py", "cv.n_folds=5", "cv.allow_rare=true")
    assert (done.returncode, done.stderr) == (0, "")
    folds = read_table(project / "data" / "folds.csv")
    assert (folds["target"] == "unicorn").sum() == 1
    assert folds["fold"].value_counts().to_dict() == {str(k): 16 for k in range(5)}


def test_plain_folds_do_not_mind_a_rare_class(project, stage_here):
    class_of_one_row(project)
    assert stage_here(project, "01_folds.py", "cv.kind=plain").returncode == 0


# --- text stays text ----------------------------------------------------------------------------------------


def test_ids_and_labels_stay_the_text_they_are(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('id,label\n00123,NA\n1e5,None\n"a,b",null\n -7 ,n/a\n0x1F,nan\n', encoding="utf-8")
    assert read_table(path).to_numpy().tolist() == [
        ["00123", "NA"],
        ["1e5", "None"],
        ["a,b", "null"],
        [" -7 ", "n/a"],
        ["0x1F", "nan"],
    ]


@pytest.mark.parametrize(
    "text", ["\ufeffid,label\na,1\n", "id,label\r\na,1\r\n", 'id,label\n"a","1"', "id,label\n\na,1\n\n"]
)
def test_a_byte_order_mark_windows_line_ends_and_quotes_make_no_difference(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("utf-8"))
    table = read_table(path)
    assert (table.columns.tolist(), table.to_numpy().tolist()) == (["id", "label"], [["a", "1"]])


def test_an_id_with_leading_zeros_finds_its_image_and_stays_text_to_the_end(project, stage_here):
    path = raw(project) / "train.csv"
    name, label = lines(path)[1].split(",")
    set_line(path, 2, f"00123,{label}")
    (raw(project) / "train_images" / f"{name}.png").rename(raw(project) / "train_images" / "00123.png")
    assert stage_here(project, "01_folds.py").returncode == 0
    assert read_table(project / "data" / "folds.csv")["id"].iloc[0] == "00123"


def test_classes_called_na_and_none_are_classes(project, stage_here):
    path = raw(project) / "train.csv"
    names = ["NA", "None", "null"]
    rewrite(
        path,
        ["id,label", *(f"{line.split(',')[0]},{names[i % 3]}" for i, line in enumerate(lines(path)[1:]))],
    )
    assert stage_here(project, "01_folds.py").returncode == 0
    folds = read_table(project / "data" / "folds.csv")
    assert folds["target"].value_counts().to_dict() == {"NA": 27, "None": 27, "null": 26}
    dataset = pd.read_json(project / "data" / "dataset.json", typ="series")
    assert dataset["outputs"] == names


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "-1", "0"], ["-1", "0", "9", "10"]),
        (["10.0", "2.0", "1.5"], ["1.5", "2.0", "10.0"]),
        (["b", "B", "a10", "a9"], ["B", "a10", "a9", "b"]),
        (["1e3", "2", "10"], ["10", "1e3", "2"]),
        (["01", "1", "00"], ["00", "01", "1"]),
    ],
)
def test_classes_stand_by_number_where_all_are_numbers_else_by_text(project, labels, order):
    task = create_task(load(project))
    assert task.describe(pd.DataFrame({"label": labels * 2})) == {
        "outputs": order,
        "counts": dict.fromkeys(order, 2),
    }


# --- which image a row means --------------------------------------------------------------------------------


def images_of(tmp_path: Path, files: list[str], values: list[str], column: str = "id") -> list[str]:
    folder = tmp_path / "train_images"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    table = pd.DataFrame({"id": [str(i) for i in range(len(values))], column: values})
    found = find_images(table, folder, "id", None if column == "id" else column, tmp_path / "train.csv")
    return [path.relative_to(folder).as_posix() for path in found]


@pytest.mark.parametrize(
    ("files", "value", "found"),
    [
        (["a.png"], "a", "a.png"),
        (["a.JPG"], "a", "a.JPG"),
        (["a.jpeg"], "a.jpeg", "a.jpeg"),
        (["cat/a.png"], "a", "cat/a.png"),
        (["cat/a.png"], "cat/a", "cat/a.png"),
        (["cat/a.png", "dog/a.png"], "dog/a.png", "dog/a.png"),
        (["cat/a.png", "a.png"], "a.png", "a.png"),
        (["cat/a.png"], "train_images/cat/a.png", "cat/a.png"),
        (["cat/a.png"], "./cat/a.png", "cat/a.png"),
        (["cat/a.png"], "cat\\a.png", "cat/a.png"),
        (["1.5.png", "1.png"], "1.5", "1.5.png"),
        (["a.png", "a.png.txt"], "a", "a.png"),
        (["a b (1).png"], "a b (1)", "a b (1).png"),
    ],
)
def test_an_image_is_found_by_path_or_name_with_or_without_its_extension(tmp_path, files, value, found):
    assert images_of(tmp_path, files, [value]) == [found]


def test_an_image_column_with_paths_wins_over_the_id(tmp_path):
    values = ["dog/1.png", "cat/1.png"]
    assert images_of(tmp_path, ["cat/1.png", "dog/1.png", "0.png"], values, column="file") == values


@pytest.mark.parametrize("files", [["cat/1.png", "dog/1.png"], ["1.png", "1.jpg"]])
def test_a_name_that_two_files_answer_to_is_refused_with_both(tmp_path, files):
    with pytest.raises(UserError) as caught:
        images_of(tmp_path, [*files, "0.png"], ["0", "1"])
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'train.csv'}, row 3: `id` '1' could be ")
    assert [name for name in files if str(tmp_path / "train_images" / name) not in message] == []
    assert "data.image" in message


def test_a_missing_image_with_an_extension_is_not_given_a_second_one(tmp_path):
    with pytest.raises(
        UserError, match=r"row 2: no image for `id` 'b\.jpg' .*a file such as b\.jpg should be there"
    ):
        images_of(tmp_path, ["c.png"], ["b.jpg"])


def test_an_image_column_that_is_not_there_is_named(project):
    with pytest.raises(UserError, match=r"train\.csv: there is no column 'file'.*set data\.image"):
        load_tables(load(project, "data.image=file"))


def test_without_a_test_table_the_rows_are_those_of_the_sample(project):
    whole = load_tables(load(project))
    (raw(project) / "test.csv").unlink()
    alone = load_tables(load(project, "data.test_csv=null"))
    assert alone.test["id"].tolist() == whole.sample["id"].tolist()
    assert alone.images["test"] == whole.images["test"]


# --- the sample submission ----------------------------------------------------------------------------------


def test_a_sample_with_one_column_a_class_in_any_order_is_taken(project):
    path = raw(project) / "sample_submission.csv"
    classes = [str(c) for c in reversed(range(10))]
    rewrite(path, [f"id,{','.join(classes)}", *(line + ",0" * 9 for line in lines(path)[1:])])
    assert load_tables(load(project)).sample.columns.tolist() == ["id", *classes]


def test_the_test_rows_may_stand_in_another_order_in_the_sample(project):
    path = raw(project) / "sample_submission.csv"
    rewrite(path, [lines(path)[0], *reversed(lines(path)[1:])])
    tables = load_tables(load(project))
    assert tables.sample["id"].tolist() == tables.test["id"].tolist()[::-1]


# --- the ways to write labels -------------------------------------------------------------------------------


def config_of(task: str, **data) -> Config:
    return Config.model_validate({"task": {"name": task}, "data": data})


def targets_of(task: str, train: dict, **data) -> tuple[list[str], dict[str, list[str]]]:
    """The ids of the rows, and the targets a column."""
    table = pd.DataFrame(train).astype(str)
    rows, targets = read_targets(table, config_of(task, **data), Path("train.csv"))
    assert list(rows.index) == list(targets.index) == list(range(len(rows)))
    return rows["id"].tolist(), targets.to_dict("list")


def test_the_target_columns_are_one_or_several_and_none_of_masks():
    assert target_columns(config_of("binary", target="x")) == ["x"]
    assert target_columns(config_of("multilabel", target=["x", "y"])) == ["x", "y"]
    assert target_columns(config_of("segmentation", train_masks="masks")) == []


def test_several_target_columns_come_in_the_order_the_config_gives_them():
    train = {"id": ["a", "b"], "x": ["1", "0"], "y": ["0", "1"]}
    assert targets_of("multilabel", train, target=["y", "x"]) == (
        ["a", "b"],
        {"y": ["0", "1"], "x": ["1", "0"]},
    )


def test_a_cell_of_labels_is_a_column_a_label_and_an_empty_one_holds_none():
    train = {"id": ["a", "b", "c"], "labels": ["16 0", "", "9"]}
    expected = {"0": ["1", "0", "0"], "9": ["0", "0", "1"], "16": ["1", "0", "0"]}
    assert targets_of("multilabel", train, target="labels", label_separator=" ")[1] == expected
    train["labels"] = ["wet leaf, rust", "rust ,", "dry"]
    expected = {"dry": ["0", "0", "1"], "rust": ["1", "1", "0"], "wet leaf": ["1", "0", "0"]}
    assert targets_of("multilabel", train, target="labels", label_separator=",")[1] == expected


def test_a_long_table_becomes_one_row_an_id_in_the_order_of_the_file():
    train = {"id": ["b", "a", "b", "a"], "kind": ["x", "x", "y", "y"], "value": ["1", "0.0", "0", "1.0"]}
    ids, targets = targets_of("multilabel", train, target="value", long="kind")
    assert (ids, targets) == (["b", "a"], {"x": ["1", "0"], "y": ["0", "1"]})


def test_a_long_table_of_true_pairs_alone_gives_zero_to_the_others():
    train = {"id": ["b", "b", "a", "c"], "kind": ["y", "x", "y", ""]}
    ids, targets = targets_of("multilabel", train, target="kind", long="kind")
    assert (ids, targets) == (["b", "a", "c"], {"x": ["1", "0", "0"], "y": ["1", "1", "0"]})


def test_a_long_table_of_numbers_keeps_them():
    train = {"id": ["a", "a"], "what": ["height", "width"], "value": ["1.50", "-2"]}
    assert targets_of("regression", train, target="value", long="what")[1] == {
        "height": ["1.50"],
        "width": ["-2"],
    }


def test_one_hot_columns_are_one_label_for_multiclass():
    train = {"id": ["a", "b"], "cat": ["0", "1.0"], "wild dog": ["1", "0"]}
    assert targets_of("multiclass", train, target=["cat", "wild dog"])[1] == {"label": ["wild dog", "cat"]}


def test_the_runs_of_an_images_objects_stand_one_after_the_other():
    train = {"id": ["a", "b", "a", "c"], "rle": ["1 2", "-1", "9 3", ""]}
    assert targets_of("segmentation", train, rle="rle") == (["a", "b", "c"], {"rle": ["1 2 9 3", "", ""]})


def test_runs_by_class_are_a_column_a_class():
    train = {"id": ["a", "a", "b"], "kind": ["10", "9", ""], "rle": ["1 2", "9 3", ""]}
    ids, targets = targets_of("segmentation", train, rle="rle", long="kind")
    assert (ids, targets) == (["a", "b"], {"9": ["9 3", ""], "10": ["1 2", ""]})


PAIR = {"id": ["a", "a"], "kind": ["x", "y"], "value": ["1", "0"]}


@pytest.mark.parametrize(
    ("task", "train", "data", "said"),
    [
        (
            "multilabel",
            {"id": ["a"], "cat": ["1"]},
            {"target": ["cat", "cats"]},
            "train.csv: there is no column 'cats'; did you mean 'cat'? it has id, cat; set data.target",
        ),
        (
            "multilabel",
            {"id": ["a", "b"], "labels": ["x", "y"]},
            {"target": "labels", "label_separator": ","},
            "train.csv: no row of `labels` holds ',' between two labels; set data.label_separator",
        ),
        (
            "multilabel",
            PAIR | {"value": ["1", "2"]},
            {"target": "value", "long": "kind"},
            "train.csv, row 3: `value` is '2'; with data.long it says whether the pair holds, 0 or 1",
        ),
        (
            "multilabel",
            PAIR | {"kind": ["x", "x"]},
            {"target": "value", "long": "kind"},
            "train.csv, row 3: id 'a' with `kind` 'x' stands there already (1 such row(s))",
        ),
        (
            "multilabel",
            PAIR | {"kind": ["x", " "]},
            {"target": "value", "long": "kind"},
            "train.csv, row 3: `kind` is empty",
        ),
        (
            "multilabel",
            PAIR,
            {"target": "value", "long": "kinds"},
            "train.csv: there is no column 'kinds'; did you mean 'kind'? it has id, kind, value",
        ),
        (
            "regression",
            {"id": ["a", "a", "b"], "kind": ["x", "y", "x"], "value": ["1", "2", "3"]},
            {"target": "value", "long": "kind"},
            "train.csv: id 'b' has no row with `kind` 'y'",
        ),
        (
            "multiclass",
            {"id": ["a", "b"], "x": ["1", "1"], "y": ["0", "1"]},
            {"target": ["x", "y"]},
            "train.csv, row 3: multiclass over 2 columns needs one 1 a row and 0 else (x 1, y 1",
        ),
        (
            "segmentation",
            {"id": ["a"], "rle": ["1 2"]},
            {"rle": "runs"},
            "train.csv: there is no column 'runs'; it has id, rle; set data.rle",
        ),
        (
            "segmentation",
            {"id": ["a"], "kind": [""], "rle": ["1 2"]},
            {"rle": "rle", "long": "kind"},
            "train.csv, row 2: there is a mask, but `kind` is empty",
        ),
    ],
)
def test_labels_written_otherwise_than_the_config_says_are_named(task, train, data, said):
    with pytest.raises(UserError) as caught:
        targets_of(task, train, **data)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.target=[a,a]", "must name one column or more, each once"),
        ("data.target=[]", "must name one column or more, each once"),
        ("data.label_separator=' '", None),
        ("data.label_separator=''", "`data.label_separator` is ''"),
        ("data.train_images=[a,b]", None),
    ],
)
def test_the_keys_that_say_how_labels_are_written_are_checked(project, override, said):
    if said is None:
        load(project, override)
        return
    with pytest.raises(UserError) as caught:
        load(project, override)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.target=[a,b]", "data.label_separator=','"),
        ("data.long=kind", "data.label_separator=','"),
        ("data.target=[a,b]", "data.long=kind"),
        ("data.rle=rle", "data.train_masks=masks"),
    ],
)
def test_two_ways_to_write_labels_at_once_are_refused(project, overrides):
    with pytest.raises(UserError, match=r"give one|needs one data\.target"):
        load(project, *overrides)


# --- the forms of a sample submission -----------------------------------------------------------------------


def form_of(task: str, sample: dict, outputs: list[str], known: list[str] | None, **data):
    table = pd.DataFrame(sample).astype(str)
    return describe_sample(table, config_of(task, **data), outputs, Path("sample.csv"), known)


@pytest.mark.parametrize(
    ("task", "sample", "outputs", "kind"),
    [
        ("multiclass", {"id": ["a"], "label": ["x"]}, ["x", "y"], "label"),
        ("multiclass", {"id": ["a"], "y": [0.5], "x": [0.5]}, ["x", "y"], "columns"),
        ("multiclass", {"id": ["a"], "label": ["x y z"]}, ["x", "y", "z"], "separated"),
        ("multiclass", {"id": ["a"], "label": ["old cat"]}, ["old cat", "old", "cat"], "label"),
        ("binary", {"id": ["a"], "target": [0.5]}, ["1"], "label"),
        ("multilabel", {"id": ["a"], "x": [0], "y": [1]}, ["x", "y"], "columns"),
        ("multilabel", {"id": ["a"], "labels": ["x y"]}, ["x", "y"], "separated"),
        ("regression", {"id": ["a"], "price": [1]}, ["price"], "columns"),
        ("regression", {"id": ["a"], "value": [1]}, ["price"], "label"),
        ("segmentation", {"id": ["a"], "rle": [""]}, ["rle"], "rle"),
        ("retrieval", {"id": ["a"], "Id": ["new_id"]}, ["x", "y"], "separated"),
    ],
)
def test_the_form_of_a_sample_with_a_row_an_image_is_told(task, sample, outputs, kind):
    form = form_of(task, sample, outputs, ["a"])
    assert (form.kind, form.images, form.classes) == (kind, ("a",), None)
    assert form.value_columns == tuple(c for c in sample if c != "id")


def test_an_id_of_image_and_class_is_taken_apart():
    sample = {"id": ["b_1_wet leaf", "b_1_rust", "a_rust", "a_wet leaf"], "p": 0.5}
    form = form_of("multilabel", sample, ["rust", "wet leaf"], ["a.png", "b_1.png"])
    assert (form.kind, form.class_column) == ("long", None)
    assert form.images == ("b_1.png", "b_1.png", "a.png", "a.png")
    assert form.classes == ("wet leaf", "rust", "rust", "wet leaf")


def test_without_a_test_table_only_a_whole_grid_of_pairs_is_taken_apart():
    grid = {"id": [f"{n}_{c}" for n in "ab" for c in "xy"], "p": 0.5}
    assert form_of("multilabel", grid, ["x", "y"], None).classes == ("x", "y", "x", "y")
    digits = {"id": ["img_1", "img_2", "img_3"], "label": 0}
    assert form_of("multiclass", digits, ["1", "2", "3"], None).images == ("img_1", "img_2", "img_3")


@pytest.mark.parametrize(("column", "data"), [("kind", {"long": "kind"}), ("whatever", {})])
def test_a_class_column_in_the_sample_is_found(column, data):
    sample = {"id": ["a", "a", "b", "b"], column: ["x", "y", "y", "x"], "p": 0.5}
    form = form_of("multilabel", sample, ["x", "y"], ["a", "b"], **data)
    assert (form.kind, form.class_column, form.value_columns) == ("long", column, ("p",))
    assert form.classes == ("x", "y", "y", "x")


def test_masks_by_class_are_pairs_of_run_lengths():
    sample = {"ImageId_ClassId": ["a.jpg_1", "a.jpg_2", "b.jpg_1", "b.jpg_2"], "EncodedPixels": "1 1"}
    form = form_of("segmentation", sample, ["1", "2"], ["a.jpg", "b.jpg"])
    assert (form.kind, form.id_column, form.images[2:]) == ("rle", "ImageId_ClassId", ("b.jpg", "b.jpg"))
    assert form.classes == ("1", "2", "1", "2")


def test_a_pair_that_stands_twice_in_the_sample_is_named():
    sample = {"id": ["a_x", "a_y", "a_x"], "p": 0.5}
    with pytest.raises(UserError, match=r"sample\.csv, row 4: `id` 'a' with class 'x' stands there already"):
        form_of("multilabel", sample, ["x", "y"], ["a"])


# --- folders, masks and what is left ------------------------------------------------------------------------


def test_images_of_several_folders_are_found_by_name_or_by_path(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for name in ("one/a.png", "two/b.png", "two/sub/c.png", "one/same.png", "two/same.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def find(*values: str) -> list[str]:
        found = find_images(pd.DataFrame({"id": values}), folders, "id", None, tmp_path / "train.csv")
        return [path.relative_to(tmp_path).as_posix() for path in found]

    assert find("a", "b.png", "c") == ["one/a.png", "two/b.png", "two/sub/c.png"]
    assert find("two/same.png", "one/same", f"{tmp_path.name}/two/b.png") == [
        "two/same.png",
        "one/same.png",
        "two/b.png",
    ]
    with pytest.raises(UserError, match=r"row 2: `id` 'same' could be .*one/same\.png or .*two/same\.png"):
        find("same")
    with pytest.raises(UserError, match=r"row 2: no image for `id` 'z' in .*one or .*two"):
        find("z")


def test_the_mask_of_a_jpeg_is_a_png_of_its_name(tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").touch()
    table = pd.DataFrame({"id": ["a.jpg"]})
    found = find_images(
        table, tmp_path / "masks", "id", None, tmp_path / "train.csv", what="mask", by_stem=True
    )
    assert found == [tmp_path / "masks" / "a.png"]
    with pytest.raises(UserError, match=r"row 2: no mask for `id` 'b\.jpg' in .*masks"):
        find_images(
            pd.DataFrame({"id": ["b.jpg"]}), tmp_path / "masks", "id", None, tmp_path / "t", "mask", True
        )


def test_a_project_with_two_image_folders_and_more_columns_loads(project):
    whole = raw(project)
    (whole / "second").mkdir()
    names = [line.split(",")[0] for line in lines(whole / "train.csv")[1:]]
    for name in names[::2]:
        (whole / "train_images" / f"{name}.png").rename(whole / "second" / f"{name}.png")
    for table in ("train", "test"):
        path = whole / f"{table}.csv"
        rewrite(
            path, [f"{lines(path)[0]},age,sex", *(f"{line},{i},f" for i, line in enumerate(lines(path)[1:]))]
        )
    tables = load_tables(load(project, "data.train_images=[train_images,second]", "data.group=sex"))
    assert [path.parent.name for path in tables.images["train"]] == ["second", "train_images"] * 40
    assert tables.extra == ("age",)
    assert tables.targets.columns.tolist() == ["label"]
    assert (tables.form.kind, tables.form.images) == ("label", tuple(tables.test["id"]))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_line_of_a_row_is_the_one_on_which_an_editor_shows_it(tmp_path, end):
    text = ["", "id,label", "", "a,1", "  ", '"b', '",2', "", 'c,"x', "", 'y"', ",", "d,4", "", ""]
    path = tmp_path / "train.csv"
    path.write_bytes(end.join(text).encode("utf-8-sig"))
    table = read_table(path)
    assert len(table) == 5
    shown = [text.index("a,1"), text.index('"b'), text.index('c,"x'), text.index(","), text.index("d,4")]
    assert [line_of(path, row) for row in range(5)] == [number + 1 for number in shown]
    assert line_with(path, "id", "d", 3) == text.index("d,4") + 1


def test_the_row_of_an_id_that_stands_in_several_is_its_first(tmp_path):
    """Of a table of pairs one row an id is left, and its number there is nobody's line."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    path = tmp_path / "train.csv"
    path.write_text("id,kind\na,x\na,y\na,z\n\nb,x\nb,y\n")
    table = read_table(path).drop_duplicates("id").reset_index(drop=True)
    with pytest.raises(UserError, match=r"train\.csv, row 6: no image for `id` 'b'"):
        find_images(table, tmp_path / "images", "id", None, path)


def test_a_number_that_is_none_is_named_by_the_row_of_its_pair(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("id,kind,value\na,x,1\na,y,2\n\nb,x,3\nb,y,\n")
    config = Config(task={"name": "regression"}, data={"long": "kind", "target": "value"})
    with pytest.raises(UserError, match=r"train\.csv, row 6: `value` is ''"):
        read_targets(read_table(path), config, path)


@pytest.mark.parametrize(
    ("name", "file", "why"),
    [
        ("7", "0007.png", "zeros"),
        ("a.jpg", "a.png", "ending"),
        ("a", "a.gif", "are read"),
        ("a", "a", "are read"),
        ("Photo", "photo.png", "case"),
        ("\u00e9", "e\u0301.png", "Unicode"),
        ("b", "a.png", None),
    ],
)
def test_a_file_whose_name_is_nearly_that_of_a_row_is_named(tmp_path, name, file, why):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / file).touch()
    with pytest.raises(UserError, match=f"row 2: no image for `id` '{name}'") as error:
        find_images(pd.DataFrame({"id": [name]}), tmp_path / "images", "id", None, tmp_path / "train.csv")
    assert (f"{file} is there, but" in str(error.value)) == (why is not None)
    assert (why or "should be there") in str(error.value)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("id,label,label\na,1,2\n")
    with pytest.raises(UserError, match=r"train\.csv: the column 'label' is there twice"):
        read_table(path)
    path.write_text("id,,,label.1,label\na,,,1,2\n")  # no name is none twice, and pandas' own is a name
    assert len(read_table(path)) == 1
