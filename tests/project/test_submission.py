"""The submission: the sample's rows and columns, checked before anything is written, and its provenance."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from digits import runs_of

from src.artifacts import write_json, write_parquet
from src.config import Config, UserError
from src.configfile import load_config
from src.data.submission_form import SampleForm, describe_sample
from src.data.tables import read_table
from src.data.targets import read_targets
from src.decisions import Rule
from src.maps import Maps
from src.metrics.retrieval import Ranking
from src.steps import submission_source, submit_step
from src.submission import table as submission
from src.submission.forms import check_runs
from src.submission.table import build, check
from src.tasks import create_task

CLASSES = ["cat", "dog", "eel"]
IDS = ["00123", "7", "00007", "x/1.png", "1e5"]  # text that a number would spoil
RAW = Path("data") / "raw"
DATASET = {"outputs": CLASSES}
PLAIN = Rule(None)  # a metric that needs no decisions


def form_of(sample: pd.DataFrame) -> SampleForm:
    """The form of a sample of ours, by its own ids."""
    return describe_sample(sample, Config(), CLASSES, Path("sample.csv"), sample["id"].tolist())


@pytest.fixture
def competition(tmp_path) -> Path:
    """A competition of three classes whose run `mine` has been predicted; the sample's order is its own."""
    root = tmp_path / "competition"
    (root / RAW).mkdir(parents=True)
    (root / "configs").mkdir()
    (root / "configs" / "baseline.yaml").write_text(
        "competition: {slug: animals}\ncv: {n_folds: 2}\nsubmit: {source: 'run:mine'}\n"
    )
    write_lines(root, "train.csv", ["id,label", "a,cat", "b,dog", "c,eel"])
    write_lines(root, "test.csv", ["id", *IDS])
    label_form(root)
    write_json(root / "data" / "dataset.json", {"task": "multiclass", "outputs": CLASSES})
    (root / "data" / "folds.csv").write_text("id,fold,stop,group,target\na,0,0,0,cat\n")
    write_run(root, "mine", predictions())
    return root


def write_lines(root: Path, name: str, lines: list[str]) -> None:
    (root / RAW / name).write_text("\n".join(lines) + "\n")


def label_form(root: Path) -> None:
    write_lines(root, "sample_submission.csv", ["id,label", *(f"{name},cat" for name in reversed(IDS))])


def probability_form(root: Path) -> None:
    """One column a class, not in our order, and the id in the middle."""
    rows = [f"0.5,{name},0.25,0.25" for name in reversed(IDS)]
    write_lines(root, "sample_submission.csv", ["eel,id,cat,dog", *rows])


def predictions(seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).dirichlet(np.ones(3), len(IDS)).astype(np.float32)
    return pd.DataFrame(values, columns=CLASSES).assign(id=IDS)[["id", *CLASSES]]


def write_run(root: Path, name: str, table: pd.DataFrame, folder: str = "runs", **more) -> Path:
    source = root / folder / name
    write_parquet(source / "test.parquet", table)
    write_json(source / "metrics.json", {"metric": "accuracy", "cv": 0.875, "rule": PLAIN.as_json()} | more)
    return source


def submit(stage_here, root: Path, *overrides: str):
    return stage_here(root, "06_submit.py", *overrides)


# --- what is written ----------------------------------------------------------------------------------------


def test_the_label_form_holds_the_most_probable_class_in_the_samples_order(competition, stage_here):
    done = submit(stage_here, competition)
    assert done.returncode == 0, done.stderr
    best = dict(zip(IDS, predictions()[CLASSES].to_numpy().argmax(1), strict=True))
    expected = ["id,label", *(f"{name},{CLASSES[best[name]]}" for name in reversed(IDS))]
    path = competition / "submissions" / "mine.csv"
    assert path.read_bytes() == ("\n".join(expected) + "\n").encode()
    assert done.stdout == f"{path}: 5 rows, checked; CV accuracy 0.8750\n"


def test_the_probability_form_holds_every_class_in_the_samples_columns(competition, stage_here):
    probability_form(competition)
    assert submit(stage_here, competition).returncode == 0
    found = pd.read_csv(competition / "submissions" / "mine.csv", dtype={"id": str})
    assert list(found.columns) == ["eel", "id", "cat", "dog"]
    assert found["id"].tolist() == IDS[::-1]
    expected = predictions().iloc[::-1]
    for name in CLASSES:
        np.testing.assert_array_equal(found[name].to_numpy(np.float32), expected[name].to_numpy())


def test_a_single_column_named_like_a_class_is_that_classs_probability(competition, stage_here):
    write_lines(competition, "sample_submission.csv", ["id,dog", *(f"{name},0.5" for name in IDS)])
    assert submit(stage_here, competition).returncode == 0
    found = pd.read_csv(competition / "submissions" / "mine.csv", dtype={"id": str})
    assert list(found.columns) == ["id", "dog"]
    np.testing.assert_array_equal(found["dog"].to_numpy(np.float32), predictions()["dog"].to_numpy())


def test_the_samples_ids_may_stand_first_under_another_name(competition, stage_here):
    write_lines(competition, "sample_submission.csv", ["image,label", *(f"{name},cat" for name in IDS)])
    done = submit(stage_here, competition)
    assert done.returncode == 0, done.stderr
    found = read_table(competition / "submissions" / "mine.csv")
    assert list(found.columns) == ["image", "label"]
    assert found["image"].tolist() == IDS
    assert found["label"].tolist() == [CLASSES[i] for i in predictions()[CLASSES].to_numpy().argmax(1)]


def test_ids_stay_text(competition, stage_here):
    assert submit(stage_here, competition).returncode == 0
    lines = (competition / "submissions" / "mine.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == IDS[::-1]


def test_classes_that_look_like_numbers_stay_text(competition, stage_here):
    labels = ["007", "1.0", "1e3"]
    write_json(competition / "data" / "dataset.json", {"outputs": labels})
    write_run(competition, "mine", predictions().rename(columns=dict(zip(CLASSES, labels, strict=True))))
    assert submit(stage_here, competition).returncode == 0
    lines = (competition / "submissions" / "mine.csv").read_text().splitlines()[1:]
    assert {line.split(",")[1] for line in lines} <= set(labels)


def test_what_was_written_is_what_was_built(competition, stage_here):
    for write_form in (label_form, probability_form):
        write_form(competition)
        assert submit(stage_here, competition).returncode == 0
        config = load_config(competition / "configs" / "baseline.yaml")
        sample = read_table(competition / RAW / "sample_submission.csv")
        form = describe_sample(
            sample, config, DATASET["outputs"], Path("sample"), predictions()["id"].tolist()
        )
        built = build(form, create_task(config), predictions(), sample, DATASET, PLAIN, Path("sample"))
        written = read_table(competition / "submissions" / "mine.csv")
        for name in built:
            numbers = name in CLASSES
            column = written[name].astype(float) if numbers else written[name]
            assert column.tolist() == built[name].tolist()


def test_the_provenance_says_where_a_submission_came_from(competition, stage_here):
    assert submit(stage_here, competition).returncode == 0
    folder = competition / "submissions"
    found = json.loads((folder / "mine.json").read_text())
    written = hashlib.sha256((folder / "mine.csv").read_bytes()).hexdigest()
    predicted = hashlib.sha256((competition / "runs/mine/test.parquet").read_bytes()).hexdigest()
    folds = hashlib.sha256((competition / "data/folds.csv").read_bytes()).hexdigest()
    known = {
        "competition": "animals",
        "source": "runs/mine",
        "metric": "accuracy",
        "cv": 0.875,
        "rows": 5,
        "sha256": written,
        "predictions_sha256": predicted,
        "folds_sha256": folds,
        "members": ["mine"],
    }
    assert {key: found[key] for key in known} == known
    assert set(found) == {*known, "source_code", "git_commit", "written"}
    assert pd.Timestamp(found["written"]).utcoffset().total_seconds() == 0


def test_a_stack_names_its_members(competition, stage_here):
    members = {"runs/b": 0.4, "a": 0.6}
    write_run(competition, "stack", predictions(1), "stacks", members=members)
    assert submit(stage_here, competition, "submit.source=stack").returncode == 0
    found = json.loads((competition / "submissions" / "stack.json").read_text())
    assert found["source"] == "stacks/stack"
    assert found["members"] == sorted(members)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["submit.source=run:other"], "other"),
        (["submit.source=run:other", "submit.name=final"], "final"),
        (["submit.source=stack"], "stack"),
        (["submit.source=stack", "stack.name=blend"], "blend"),
    ],
)
def test_the_source_names_the_submission_and_is_the_one_that_is_read(
    competition, stage_here, overrides, name
):
    write_run(competition, "other", predictions(1))
    write_run(competition, "stack", predictions(2), "stacks")
    write_run(competition, "blend", predictions(3), "stacks")
    probability_form(competition)
    assert submit(stage_here, competition, *overrides).returncode == 0
    found = pd.read_csv(competition / "submissions" / f"{name}.csv")
    seed = {"other": 1, "final": 1, "stack": 2, "blend": 3}[name]
    np.testing.assert_array_equal(found["cat"].to_numpy(np.float32), predictions(seed)["cat"][::-1])


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("run:lost", "submit.source: .*runs/lost/test.parquet is not there; run `make oof EXP=lost` first"),
        ("stack", "submit.source: .*stacks/stack/test.parquet is not there; run `make stack` first"),
        ("mine", "submit.source: 'mine' is neither `stack` nor `run:<name>`"),
        ("run", "submit.source: 'run' is neither `stack` nor `run:<name>`"),
    ],
)
def test_a_source_that_is_not_there_is_refused_with_the_command_that_makes_it(
    competition, stage_here, source, what
):
    done = submit(stage_here, competition, f"submit.source={source}")
    assert done.returncode == 2
    assert re.fullmatch(f"error: {what}\n", done.stderr)
    assert not (competition / "submissions").exists()


def test_a_source_that_was_not_scored_is_refused_before_anything_is_written(competition, stage_here):
    (competition / "runs" / "mine" / "metrics.json").unlink()
    done = submit(stage_here, competition)
    assert done.returncode == 2
    assert "metrics.json is not there; run `make oof EXP=mine` first" in done.stderr
    assert not (competition / "submissions").exists()


def test_a_score_that_is_undefined_does_not_keep_a_submission_from_being_made(competition, stage_here):
    write_run(competition, "mine", predictions(), cv=None)
    done = submit(stage_here, competition)
    assert done.returncode == 0
    assert done.stdout.endswith("5 rows, checked; CV accuracy -\n")


def test_a_second_call_is_up_to_date_and_changed_predictions_are_not(competition, stage_here, snapshot):
    submit(stage_here, competition)
    before = snapshot(competition)
    assert "up to date" in submit(stage_here, competition).stdout
    assert snapshot(competition) == before
    write_run(competition, "mine", predictions(5))
    assert "checked" in submit(stage_here, competition).stdout
    assert snapshot(competition) != before


# --- what is refused: each spoils the files and gives what the message holds --------------------------------


def sample_with_an_id_that_was_not_predicted(root):
    write_lines(root, "sample_submission.csv", ["id,label", *(f"{name},cat" for name in [*IDS, "new"])])
    return r"sample_submission.csv: no prediction for id 'new' \(1 such id\(s\)\); run `make folds oof` again"


def sample_that_holds_an_id_twice(root):
    write_lines(root, "sample_submission.csv", ["id,label", *(f"{name},cat" for name in [*IDS, "7"])])
    return "the submission holds id '7' twice"


def sample_with_columns_of_another_competition(root):
    write_lines(root, "sample_submission.csv", ["id,cat,fox,eel", *(f"{name},0,0,0" for name in IDS)])
    return (
        r"sample_submission.csv: its columns are neither one label nor one a class .*there is none for 'dog'"
    )


def sample_without_the_id_column(root):
    write_lines(root, "sample_submission.csv", ["image,label", *(f"no{name},cat" for name in IDS)])
    return "sample_submission.csv: there is no column 'id'; it has image, label"


def prediction_that_is_not_a_number(root):
    table = predictions()
    table.loc[2, "dog"] = np.nan
    write_run(root, "mine", table)
    return "the prediction for id '00007' is not a number; train again with a lower train.lr"


def prediction_that_is_infinite(root):
    table = predictions()
    table.loc[0, "cat"] = np.inf
    write_run(root, "mine", table)
    return "the prediction for id '00123' is not a number"


def prediction_that_is_no_probability(root):
    probability_form(root)
    table = predictions()
    table.loc[3, "dog"] = 1.5
    write_run(root, "mine", table)
    return "row 3 of the submission, `dog`: 1.5 is no probability"


def prediction_below_zero(root):
    probability_form(root)
    table = predictions()
    table.loc[4, "eel"] = -0.25
    write_run(root, "mine", table)
    return "row 2 of the submission, `eel`: -0.25 is no probability"


@pytest.mark.parametrize(
    "spoil",
    [
        sample_with_an_id_that_was_not_predicted,
        sample_that_holds_an_id_twice,
        sample_with_columns_of_another_competition,
        prediction_that_is_not_a_number,
        prediction_that_is_infinite,
        prediction_that_is_no_probability,
        prediction_below_zero,
    ],
)
def test_what_cannot_be_submitted_is_refused_in_one_sentence_and_the_earlier_file_stays(
    competition, stage_here, snapshot, spoil
):
    submit(stage_here, competition)
    before = snapshot(competition / "submissions")
    what = spoil(competition)
    done = submit(stage_here, competition)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert re.search(what, done.stderr)
    assert snapshot(competition / "submissions") == before


def good(columns=("id", "label")) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A submission that passes, and its sample."""
    sample = pd.DataFrame({"id": IDS, **{name: "0.5" for name in columns[1:]}})
    values = {name: np.full(5, 0.5) for name in columns[1:]}
    return pd.DataFrame({"id": IDS, **(values if len(columns) > 2 else {"label": ["cat"] * 5})}), sample


FULL = ("id", *CLASSES)
TASK = create_task(Config())


def test_a_good_table_passes():
    for columns in (("id", "label"), FULL):
        table, sample = good(columns)
        check(form_of(sample), TASK, table, sample, DATASET, Path("sample.csv"))


@pytest.mark.parametrize(
    ("columns", "spoil", "what"),
    [
        (FULL, lambda t: t[["id", "dog", "cat", "eel"]], r"columns are \['id', 'dog', 'cat', 'eel'\]"),
        (FULL, lambda t: t.drop(columns="eel"), r"columns are \['id', 'cat', 'dog'\], sample.csv has"),
        (FULL, lambda t: t.assign(extra=1), "columns are .*'extra'"),
        (FULL, lambda t: t.iloc[:-1], "has 4 rows, sample.csv has 5"),
        (FULL, lambda t: t.iloc[[1, 0, 2, 3, 4]], "row 2 of the submission is '7', sample.csv has '00123'"),
        (FULL, lambda t: t.iloc[[0, 1, 1, 3, 4]], "holds id '7' twice"),
        (FULL, lambda t: t.assign(id=["123", *IDS[1:]]), "row 2 .* is '123', sample.csv has '00123'"),
        (FULL, lambda t: t.assign(dog=[0.5, np.nan, 0.5, 0.5, 0.5]), "row 3 .*`dog`: nan is no probability"),
        (FULL, lambda t: t.assign(dog=[0.5, 0.5, 0.5, 0.5, 1.001]), "row 6 .*`dog`: 1.001 is no probability"),
        (FULL, lambda t: t.assign(cat=["0.1", "", "0", "1", "x"]), "row 3 .*`cat`: '' is no probability"),
        (
            ("id", "label"),
            lambda t: t.assign(label=["cat", "cat", "fox", "cat", "cat"]),
            "holds 'fox', no class",
        ),
        (
            ("id", "label"),
            lambda t: t.assign(label=["cat", np.nan, "cat", "cat", "cat"]),
            "holds 'nan', no class",
        ),
        (("id", "label"), lambda t: t.assign(label=0), "`label` holds '0', no class of train.csv"),
    ],
)
def test_every_check_says_what_is_wrong_and_where(columns, spoil, what):
    table, sample = good(columns)
    with pytest.raises(UserError, match=what):
        check(form_of(sample), TASK, spoil(table), sample, DATASET, Path("sample.csv"))


def test_a_file_that_reads_back_otherwise_does_not_take_the_earlier_ones_place(
    competition, stage_here, monkeypatch, snapshot
):
    submit(stage_here, competition)
    before = snapshot(competition / "submissions")
    write_run(competition, "mine", predictions(5))
    config = load_config(competition / "configs" / "baseline.yaml")
    source, name = submission_source(config)

    def damaged(path, *more, **named):
        table = read_table(path, *more, **named)
        return table.iloc[:-1] if path.suffix == ".tmp" else table

    monkeypatch.setattr(submission, "read_table", damaged)
    with pytest.raises(UserError, match="has 4 rows"):
        submission.write_submission(submit_step(config, source, name), config, source)
    assert snapshot(competition / "submissions") == before


# --- a metric about decisions: the rule that was fitted on OOF decides --------------------------------------


def test_the_rule_beside_the_predictions_decides_the_submission(competition, stage_here):
    """Thresholds of .8 and .2 instead of one half: what the printed CV was told with."""
    write_lines(competition, "sample_submission.csv", ["id,dog,cat", *(f"{name},0,0" for name in IDS)])
    write_json(competition / "data" / "dataset.json", {"outputs": ["cat", "dog"]})
    values = pd.DataFrame({"id": IDS, "cat": [0.81, 0.79, 0.5, 0.1, 0.9], "dog": [0.19, 0.21, 0.5, 0.1, 0.9]})
    rule = Rule("threshold", ((0.8,), (0.2,)))
    write_run(competition, "mine", values, metric="f1_macro", rule=rule.as_json())
    done = submit(stage_here, competition, "task={name: multilabel, metric: f1_macro}")
    assert done.returncode == 0, done.stderr
    lines = (competition / "submissions" / "mine.csv").read_text().splitlines()
    assert lines == [
        "id,dog,cat",
        *(f"{name},{said}" for name, said in zip(IDS, ("0,1", "1,0", "1,0", "0,0", "1,1"), strict=True)),
    ]


def test_cut_points_make_grades_of_numbers(competition, stage_here):
    write_lines(competition, "sample_submission.csv", ["id,grade", *(f"{name},0" for name in IDS)])
    write_json(competition / "data" / "dataset.json", {"outputs": ["diagnosis"]})
    values = pd.DataFrame({"id": IDS, "diagnosis": [0.2, 0.8, 1.4, 2.2, 9.0]})
    rule = Rule("cuts", ((0.7, 2.0),), ((0.0, 1.0, 2.0),))
    write_run(competition, "mine", values, metric="qwk", rule=rule.as_json())
    done = submit(stage_here, competition, "task={name: regression, metric: qwk}")
    assert done.returncode == 0, done.stderr
    lines = (competition / "submissions" / "mine.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines] == ["grade", "0", "1", "1", "2", "2"]


# --- samples of other forms ---------------------------------------------------------------------------------

VALUES = np.array([[0.7, 0.1, 0.2], [0.2, 0.3, 0.5]])


def written(config: Config, sample: pd.DataFrame, outputs: list[str], rule: Rule = PLAIN) -> pd.DataFrame:
    """What is submitted of two images' predictions for this sample, checked as stage 06 does."""
    task, dataset = create_task(config), {"outputs": outputs, "classes": outputs}
    said = pd.DataFrame(VALUES, columns=outputs)
    said.insert(0, "id", ["one", "two"])
    form = describe_sample(sample, config, outputs, Path("sample.csv"), ["one", "two"])
    table = build(form, task, said, sample, dataset, rule, Path("sample.csv"))
    check(form, task, table, sample, dataset, Path("sample.csv"))
    return table


MULTILABEL = Config(task={"name": "multilabel", "metric": "f1_macro"}, data={"target": CLASSES})


def test_several_answers_a_cell_are_the_likeliest_classes_in_order():
    sample = pd.DataFrame({"id": ["two", "one"], "label": ["cat dog", "cat dog"]})
    table = written(Config(task={"metric": "map3"}), sample, CLASSES)
    assert table["label"].tolist() == ["eel dog", "cat eel"]


def test_labels_in_one_cell_are_those_decided_on_the_likeliest_first():
    sample = pd.DataFrame({"id": ["one", "two"], "labels": ["cat dog", "eel"]})
    rule = Rule("threshold", ((0.5,), (0.25,), (0.3,)))
    table = written(MULTILABEL, sample, CLASSES, rule)
    assert table["labels"].tolist() == ["cat", "eel dog"]


@pytest.mark.parametrize("joint", ["_", "-", " "])
def test_a_row_a_pair_holds_the_value_of_that_image_and_class(joint):
    pairs = [("two", "dog"), ("one", "eel"), ("one", "cat"), ("two", "cat"), ("one", "dog"), ("two", "eel")]
    sample = pd.DataFrame({"id": [joint.join(pair) for pair in pairs], "value": ["0"] * 6})
    table = written(Config(task={"name": "multilabel"}, data={"target": CLASSES}), sample, CLASSES)
    place = {"one": 0, "two": 1}
    expected = [VALUES[place[image], CLASSES.index(kind)] for image, kind in pairs]
    assert table["value"].tolist() == expected
    assert table["id"].tolist() == sample["id"].tolist()


def test_a_row_a_pair_with_its_class_in_a_column_of_its_own():
    sample = pd.DataFrame({"id": ["one"] * 3 + ["two"] * 3, "kind": CLASSES * 2, "value": ["0"] * 6})
    config = Config(task={"name": "multilabel"}, data={"target": "value", "long": "kind"})
    assert written(config, sample, CLASSES)["value"].tolist() == VALUES.ravel().tolist()


def test_an_answer_that_is_no_class_is_refused():
    sample = pd.DataFrame({"id": ["one", "two"], "labels": ["cat dog", "eel"]})
    form = describe_sample(sample, MULTILABEL, CLASSES, Path("sample.csv"), ["one", "two"])
    table = sample.assign(labels=["cat", "eal dog"])
    with pytest.raises(UserError, match=r"`labels` holds 'eal', no class of train\.csv"):
        check(form, create_task(MULTILABEL), table, sample, {"outputs": CLASSES}, Path("sample.csv"))


def test_a_sample_whose_ids_stand_under_another_name_is_filled_all_the_same(competition, stage_here):
    write_lines(competition, "sample_submission.csv", ["image,label", *(f"{name},cat" for name in IDS)])
    assert submit(stage_here, competition).returncode == 0
    table = read_table(competition / "submissions" / "mine.csv")
    assert list(table.columns) == ["image", "label"]
    assert table["image"].tolist() == IDS


# --- masks --------------------------------------------------------------------------------------------------

SIZES = {"one": (12, 20), "two": (8, 8)}  # height and width of the files; the model saw 16 x 16 or less
MASKS = {
    name: np.random.default_rng(number).integers(0, 256, (2, 6, 10) if name == "one" else (2, 8, 8), np.uint8)
    for number, name in enumerate(SIZES)
}


def segmentation(*classes: str) -> Config:
    masks = {"train_masks": "masks", "mask_classes": classes or None}
    return Config(task={"name": "segmentation"}, data=masks)


def said_of_masks(config: Config, outputs: list[str]) -> pd.DataFrame:
    """The prediction table of both images."""
    levels = Maps.of(MASKS[name][: len(outputs)] for name in SIZES).resized(list(SIZES.values()))
    return pd.DataFrame({"id": list(SIZES)}).join(create_task(config).write(levels, outputs))


def masks_written(sample: pd.DataFrame, outputs: list[str], rule: Rule) -> list[str]:
    """What is submitted of them for this sample, checked as stage 06 does."""
    config = segmentation(*outputs) if len(outputs) > 1 else segmentation()
    task, said = create_task(config), said_of_masks(config, outputs)
    form = describe_sample(sample, config, outputs, Path("sample.csv"), list(SIZES))
    table = build(form, task, said, sample, {"outputs": outputs}, rule, Path("sample.csv"))
    check(form, task, table, sample, {"outputs": outputs}, Path("sample.csv"))
    check_runs(form, table, SIZES)
    assert form.kind == "rle"
    assert list(table.columns) == list(sample.columns)
    return table[form.value_columns[0]].tolist()


def runs_by_hand(name: str, number: int, threshold: float) -> str:
    """Of the levels brought to the file's size."""
    height, width = SIZES[name]
    levels = cv2.resize(MASKS[name][number], (width, height), interpolation=cv2.INTER_LINEAR)
    return runs_of(levels / 255 >= threshold)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_a_mask_an_image_is_written_at_the_files_own_size_as_the_rule_decides(threshold):
    sample = pd.DataFrame({"id": ["two", "one"], "rle": ["", ""]})
    rule = Rule("threshold", ((threshold,),))
    assert masks_written(sample, ["mask"], rule) == [
        runs_by_hand(name, 0, threshold) for name in ("two", "one")
    ]


def test_without_a_threshold_a_mask_is_decided_at_a_half():
    sample = pd.DataFrame({"id": ["one", "two"], "rle": ["", ""]})
    assert masks_written(sample, ["mask"], Rule("threshold")) == [
        runs_by_hand(name, 0, 0.5) for name in SIZES
    ]


def test_a_row_a_pair_holds_the_mask_of_that_image_and_class_by_its_own_threshold():
    pairs = [("two", "wall"), ("one", "wall"), ("one", "cell"), ("two", "cell")]
    expected = [runs_by_hand(n, int(c == "wall"), {"cell": 0.4, "wall": 0.7}[c]) for n, c in pairs]
    rule = Rule("threshold", ((0.4,), (0.7,)))
    joined = pd.DataFrame({"id": ["_".join(pair) for pair in pairs], "rle": ""})
    assert masks_written(joined, ["cell", "wall"], rule) == expected
    apart = pd.DataFrame({"id": [n for n, _ in pairs], "kind": [c for _, c in pairs], "rle": ""})
    assert masks_written(apart, ["cell", "wall"], rule) == expected
    assert len(set(expected)) == 4


def test_an_empty_mask_is_an_empty_cell():
    sample = pd.DataFrame({"id": ["one", "two"], "rle": ["1 1", "1 1"]})
    assert masks_written(sample, ["mask"], Rule("threshold", ((1.01,),))) == ["", ""]


def test_several_classes_need_a_sample_that_says_which_a_row_means():
    sample = pd.DataFrame({"id": ["one", "two"], "rle": ["", ""]})
    with pytest.raises(UserError, match=r"2 classes have masks \(cell, wall, ...\), but no row says which"):
        masks_written(sample, ["cell", "wall"], Rule("threshold"))


def test_a_sample_about_other_classes_than_the_masks_have_is_refused_with_the_key_that_names_them():
    joined = pd.DataFrame({"id": ["one_nut", "two_nut", "one_cell", "two_cell"], "rle": ""})
    apart = pd.DataFrame({"id": ["one", "one", "two", "two"], "kind": ["nut", "cell"] * 2, "rle": ""})
    about, named = (
        r"^sample\.csv: its rows are about nut, cell, ",
        "the masks' classes are called cell, wall; ",
    )
    files = rf"{about}{named}name them so in data\.mask_classes, in the order of the masks' values$"
    runs = rf"{about}{named}data\.long=type should be the column of train\.csv with these names$"
    long = Config(task={"name": "segmentation"}, data={"rle": "rle", "long": "type"})
    for sample in (joined, apart):
        for config, says in ((segmentation("cell", "wall"), files), (long, runs)):
            with pytest.raises(UserError, match=says):
                describe_sample(sample, config, ["cell", "wall"], Path("sample.csv"), list(SIZES))


def test_plain_ids_with_endings_of_several_kinds_are_no_classes():
    sample = pd.DataFrame({"id": ["a.jpg", "b.png"], "rle": ""})
    form = describe_sample(sample, segmentation(), ["mask"], Path("sample.csv"), ["a.jpg", "b.png"])
    assert (form.images, form.classes) == (("a.jpg", "b.png"), None)


RLE = SampleForm("rle", "id", ("rle",), ("one", "two"))


@pytest.mark.parametrize("runs", [["", ""], ["1 240", "64 1"], ["3 4 8 2 239 2", "1 1 3 1"]])
def test_runs_that_rise_and_end_inside_the_image_pass(runs):
    check_runs(RLE, pd.DataFrame({"id": ["one", "two"], "rle": runs}), SIZES)


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        (
            ["1 2", "64 2"],
            r"row 3 of the submission \(two\): its run 1 ends at pixel 65; the image has 64, 8 high",
        ),
        (
            ["1 241", ""],
            r"row 2 of the submission \(one\): its run 1 ends at pixel 241; the image has 240, 12 high",
        ),
        (["", "5 2 1 2"], r"row 3 of the submission \(two\): its runs overlap or are out of order"),
        (["", "1 4 3 4"], r"row 3 of the submission \(two\): its runs overlap or are out of order"),
        (["1 2 3 2", ""], r"row 2 of the submission \(one\): its runs overlap or are out of order"),
        (["0 2", ""], r"row 2 of the submission \(one\): its run 1 starts at 0"),
        (["1 2 3", ""], r"row 2 of the submission \(one\): its runs are 3 numbers"),
    ],
    ids=["past the end", "past a larger end", "out of order", "overlap", "touch", "from 0", "no pairs"],
)
def test_runs_that_nobody_could_score_are_refused_with_their_row(runs, says):
    with pytest.raises(UserError, match=f"^{says}"):
        check_runs(RLE, pd.DataFrame({"id": ["one", "two"], "rle": runs}), SIZES)


def masked(root: Path) -> Config:
    """The competition of this file's top turned into one of masks."""
    write_lines(root, "test.csv", ["id", *SIZES])
    write_lines(root, "sample_submission.csv", ["id,rle", *(f"{name}," for name in SIZES)])
    write_json(root / "data" / "dataset.json", {"outputs": ["mask"]})
    rule = Rule("threshold", ((0.6,),)).as_json()
    write_run(root, "mine", said_of_masks(segmentation(), ["mask"]), metric="dice", rule=rule)
    return load_config(root / "configs" / "baseline.yaml", ["task.name=segmentation", "data.rle=rle"])


def test_stage_06_writes_masks(competition, stage_here):
    masked(competition)
    done = submit(stage_here, competition, "task.name=segmentation", "data.rle=rle")
    assert done.returncode == 0, done.stderr
    lines = (competition / "submissions" / "mine.csv").read_text().splitlines()
    assert lines == ["id,rle", *(f"{name},{runs_by_hand(name, 0, 0.6)}" for name in SIZES)]


def test_a_file_of_masks_that_reads_back_otherwise_is_not_kept(competition, monkeypatch):
    config = masked(competition)
    source, name = submission_source(config)

    def damaged(path, *more, **named):
        table = read_table(path, *more, **named)
        return table.assign(rle=["1 2", "64 2"]) if path.suffix == ".tmp" else table

    monkeypatch.setattr(submission, "read_table", damaged)
    with pytest.raises(UserError, match=r"row 3 of the submission \(two\): its run 1 ends at pixel 65"):
        submission.write_submission(submit_step(config, source, name), config, source)
    assert not list((competition / "submissions").glob("mine*"))


# --- answers to whom an image shows -------------------------------------------------------------------------

WHO = ["w_1", "w_2", "w_3", "w_4", "w_5", "w_6", "w_7"]
RANKED = Ranking([WHO, WHO[::-1][:4]], [[0.9, 0.8, 0.7, 0.3, 0.2, 0.1, 0.0], [0.6, 0.5, 0.4, 0.1]], "new_id")


def retrieval(metric: str = "map5", new: str | None = "new_id", **data) -> Config:
    return Config(
        task={"name": "retrieval", "metric": metric}, data={"target": "Id", "new_label": new, **data}
    )


def answers_written(
    config: Config, sample: list[str], rule: Rule = PLAIN, ranking: Ranking = RANKED
) -> list[str]:
    """What is submitted of two images' rankings for these sample cells, checked as stage 06 does."""
    table = pd.DataFrame({"id": ["one", "two"], "Id": sample})
    outputs = sorted({name for names in ranking.labels for name in names})
    task, dataset = create_task(config), {"outputs": outputs, "new_label": config.data.new_label}
    said = pd.DataFrame({"id": ["two", "one"]}).join(task.write(ranking.take([1, 0]), outputs))
    form = describe_sample(table, config, outputs, Path("sample.csv"), ["one", "two"])
    found = build(form, task, said, table, dataset, rule, Path("sample.csv"))
    check(form, task, found, table, dataset, Path("sample.csv"))
    assert (form.kind, list(found.columns)) == ("separated", ["id", "Id"])
    return found["Id"].tolist()


@pytest.mark.parametrize(
    ("metric", "sample", "count"),
    [
        ("map5", "new_id", 5),
        ("map1", "new_id", 1),
        ("recall1", "w_1", 1),
        ("map3", "w_1 w_2", 3),
        ("map5", "w_1 w_2 w_3 w_4 w_5 w_6", 6),
        ("map_full", "new_id", 7),
    ],
)
def test_a_cell_holds_as_many_answers_as_the_metric_looks_at_or_the_sample_shows(metric, sample, count):
    cells = answers_written(retrieval(metric), [sample, sample])
    assert cells == [" ".join(WHO[:count]), " ".join(WHO[::-1][: min(count, 4)])]


@pytest.mark.parametrize(
    ("threshold", "cells"),
    [
        (0.95, ["new_id w_1 w_2 w_3 w_4", "new_id w_7 w_6 w_5 w_4"]),
        (0.75, ["w_1 w_2 new_id w_3 w_4", "new_id w_7 w_6 w_5 w_4"]),
        (0.3, ["w_1 w_2 w_3 w_4 new_id", "w_7 w_6 w_5 new_id w_4"]),
        (0.05, ["w_1 w_2 w_3 w_4 w_5", "w_7 w_6 w_5 w_4 new_id"]),
    ],
)
def test_the_answer_for_new_ones_stands_where_the_rule_puts_it_and_takes_a_place(threshold, cells):
    rule = Rule("new", ((threshold,),))
    assert answers_written(retrieval(), ["new_id", "new_id"], rule) == cells


def test_answers_may_stand_apart_by_something_else_than_a_blank():
    config = retrieval("map3", label_separator=",")
    assert answers_written(config, ["w_1,w_2", "new_id"]) == ["w_1,w_2,w_3", "w_7,w_6,w_5"]
    names = Ranking([["Ann Lee", "Bo Ek"], ["Bo Ek"]], [[0.9, 0.5], [0.7]], "new_id")
    assert answers_written(config, ["new_id"] * 2, ranking=names) == ["Ann Lee,Bo Ek", "Bo Ek"]


def test_that_separator_is_the_samples_and_cuts_no_identity_of_train_in_two():
    train = pd.DataFrame({"id": ["a", "b"], "Id": ["Lee, Ann", "Ek, Bo"]})
    rows, targets = read_targets(train, retrieval(label_separator=","), Path("train.csv"))
    assert targets["Id"].tolist() == ["Lee, Ann", "Ek, Bo"]
    assert len(rows) == 2


def test_an_answer_that_is_no_identity_and_not_the_one_for_new_ones_is_refused():
    config, table = retrieval(), pd.DataFrame({"id": ["one", "two"], "Id": ["new_id w_1", "w_2"]})
    form = describe_sample(table, config, WHO, Path("sample.csv"), ["one", "two"])
    dataset = {"outputs": WHO, "new_label": "new_id"}
    check(form, create_task(config), table, table, dataset, Path("sample.csv"))
    for cell, unknown in (("w_1 w_99", "w_99"), ("new_whale w_1", "new_whale")):
        with pytest.raises(UserError, match=f"`Id` holds '{unknown}', no class of train.csv"):
            check(
                form, create_task(config), table.assign(Id=[cell, "w_2"]), table, dataset, Path("sample.csv")
            )
    with pytest.raises(UserError, match="`Id` holds 'new_id', no class of train"):
        check(
            form, create_task(config), table, table, {"outputs": WHO, "new_label": None}, Path("sample.csv")
        )


@pytest.mark.parametrize(
    ("names", "new", "separator", "label"),
    [
        (["w_1", "grey seal"], "new_id", None, "grey seal"),
        (["w_1", "w_2"], "new whale", None, "new whale"),
        (["Lee, Ann", "w_2"], "new_id", ",", "Lee, Ann"),
    ],
)
def test_a_label_that_would_read_as_several_answers_is_refused(names, new, separator, label):
    config = retrieval(new=new, **({"label_separator": separator} if separator else {}))
    ranking = Ranking([names, names], [[0.9, 0.5]] * 2, new)
    holds = f"the label '{label}' holds '{separator or ' '}', which stands between the answers of a cell"
    with pytest.raises(UserError, match=f"^{holds}, so it would be read as several; is data.label_separator"):
        answers_written(config, ["w_1", "w_1"], ranking=ranking)


def test_a_label_of_several_words_is_refused_in_a_cell_of_several_labels_too():
    outputs = ["cat", "big dog", "eel"]
    config = Config(task={"name": "multilabel", "metric": "f1_macro"}, data={"target": outputs})
    sample = pd.DataFrame({"id": ["one", "two"], "labels": ["cat eel", "eel"]})
    with pytest.raises(UserError, match="the label 'big dog' holds ' '"):
        written(config, sample, outputs, Rule("threshold"))
    columns = pd.DataFrame({"id": ["one", "two"], **{name: ["0", "0"] for name in outputs}})
    assert written(config, columns, outputs, Rule("threshold"))["big dog"].tolist() == [0, 0]


def test_stage_06_writes_answers_and_nothing_where_a_label_would_read_as_two(
    competition, stage_here, snapshot
):
    words = ["task={name: retrieval, metric: map3}", "data.target=Id", "data.new_label=new_id"]
    write_lines(competition, "sample_submission.csv", ["id,Id", *(f"{name},new_id" for name in IDS)])
    rule = Rule("new", ((0.6,),)).as_json()

    def run(names: list[str]) -> None:
        write_json(competition / "data" / "dataset.json", {"outputs": names, "new_label": "new_id"})
        table = pd.DataFrame({"id": IDS, "candidates": [names] * 5, "similarity": [[0.9, 0.5, 0.1]] * 5})
        write_run(competition, "mine", table, metric="map3", rule=rule)

    run(["ann", "bo", "cy"])
    done = submit(stage_here, competition, *words)
    assert done.returncode == 0, done.stderr
    lines = (competition / "submissions" / "mine.csv").read_text().splitlines()
    assert lines == ["id,Id", *(f"{name},ann new_id bo" for name in IDS)]
    before = snapshot(competition / "submissions")
    run(["ann", "bo ek", "cy"])
    done = submit(stage_here, competition, *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: the label 'bo ek' holds ' ', which stands between the answers")
    assert snapshot(competition / "submissions") == before
