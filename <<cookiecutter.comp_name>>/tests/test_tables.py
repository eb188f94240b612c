"""Kaggle's tables: text stays text, and every mistake is one sentence with file, row and what is right."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from src.config import UserError
from src.configfile import load_config
from src.data.tables import find_images, load_tables, read_table
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
    return "train.csv, row 12: `label` is empty in 1 row(s)"


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
        "('9' has no partner)",
    )


def class_of_one_row(project):
    path = raw(project) / "train.csv"
    set_line(path, 20, lines(path)[19].split(",")[0] + ",unicorn")
    return "train.csv, row 20: class 'unicorn' has 1 row(s), fewer than cv.n_folds=2", "cv.allow_rare=true"


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
        "train.csv, row 20: class 'unicorn' has 1 row(s), fewer than cv.n_folds=5 (1 such class(es))"
        in done.stderr
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
    assert task.describe(pd.Series(labels * 2)) == {"outputs": order, "counts": dict.fromkeys(order, 2)}


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
        images_of(tmp_path, ["b.png"], ["b.jpg"])


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
