"""The configuration: files, bases and overrides merge as promised, and a mistake is named where it stands."""

from __future__ import annotations

import subprocess
import sys

import processes
import pytest
import yaml
from conftest import BASELINE, ROOT, write_config
from digits import write_competition

from src.config import LOSSES, Config, UserError
from src.configfile import known_keys, load_config

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "pandas",
    "numpy",
    "sklearn",
    "scipy",
    "albumentations",
    "cv2",
    "lightgbm",
    "wandb",
)
STAGES = sorted(path.name for path in ROOT.glob("0[1-6]_*.py"))


def load(tmp_path, text: str = "", *overrides: str, name: str = "experiment") -> Config:
    return load_config(write_config(tmp_path, name, text), list(overrides))


def refused(tmp_path, text: str = "", *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value)


def test_an_empty_file_gives_the_defaults_and_takes_its_name_from_the_file(tmp_path):
    config = load(tmp_path, "")
    assert config.settings() == {**Config().settings(), "name": "experiment"}
    assert config.root == tmp_path
    assert (config.train.optimizer, config.train.lr) == ("adam", 3e-4)


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path):
    expected = Config().settings() | {"name": "experiment"}
    expected["train"]["epochs"] = 3
    expected["train"]["ema"]["decay"] = 0.9
    assert load(tmp_path, "train:\n  epochs: 3\n  ema:\n    decay: 0.9\n").settings() == expected


def test_a_section_with_all_its_lines_commented_out_changes_nothing(tmp_path):
    assert load(tmp_path, "train:\n  # epochs: 3\n  ema:\n").settings() == load(tmp_path, "").settings()


def test_later_layers_win_from_the_base_over_the_file_to_the_command_line(tmp_path):
    write_config(tmp_path, "deep", "train: {epochs: 1, lr: 0.1, batch_size: 8}\nseed: 7\n")
    write_config(tmp_path, "middle", "base: deep\ntrain: {epochs: 2, lr: 0.2}\n")
    config = load(
        tmp_path, "base: middle.yaml\ntrain: {epochs: 3}\n", "train.weight_decay=0.5", "train.lr=0.3"
    )
    assert (config.train.epochs, config.train.lr, config.train.batch_size) == (3, 0.3, 8)
    assert (config.train.weight_decay, config.seed) == (0.5, 7)


def test_the_name_of_a_base_is_not_inherited_or_two_experiments_would_share_a_folder(tmp_path):
    write_config(tmp_path, "first", "name: famous\ntrain: {epochs: 4}\n")
    config = load(tmp_path, "base: first\n", name="second")
    assert (config.name, config.train.epochs) == ("second", 4)


def test_a_circle_of_bases_is_refused(tmp_path):
    write_config(tmp_path, "one", "base: two\n")
    write_config(tmp_path, "two", "base: one\n")
    with pytest.raises(UserError, match=r"two\.yaml: its `base:` leads back to itself"):
        load_config(tmp_path / "configs" / "two.yaml")


def test_a_config_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    write_config(tmp_path, "baseline", "")
    with pytest.raises(UserError, match=r"baselin\.yaml: there is no such config.*baseline\.yaml"):
        load_config(tmp_path / "configs" / "baselin.yaml")
    assert "nobody.yaml: there is no such config" in refused(tmp_path, "base: nobody")


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("train: {epoch: 3}", "train.epoch", "train.epochs"),
        ("trian: {epochs: 3}", "trian.epochs", "train.epochs"),
        ("epochs: 3", "epochs", "train.epochs"),
        ("data: {img_size: 3}", "data.img_size", "data.image_size"),
        ("train: {ema: {dcay: 0.1}}", "train.ema.dcay", "train.ema.decay"),
        ("train: {lr: {value: 3}}", "train.lr.value", "train.lr"),
    ],
)
def test_an_unknown_key_is_named_with_its_file_and_the_nearest_known_one(tmp_path, text, key, near):
    message = refused(tmp_path, text)
    assert (
        message == f"{tmp_path / 'configs' / 'experiment.yaml'}: unknown key `{key}`; did you mean `{near}`?"
    )


def test_an_unknown_key_in_a_base_is_named_with_the_base(tmp_path):
    base = write_config(tmp_path, "deep", "train: {epoch: 1}")
    assert refused(tmp_path, "base: deep").startswith(f"{base}: unknown key `train.epoch`")


def test_an_unknown_key_on_the_command_line_is_named_as_such(tmp_path):
    message = refused(tmp_path, "", "train.epoch=3")
    assert message == "the command line: unknown key `train.epoch`; did you mean `train.epochs`?"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epochs=many", ["`train.epochs` is 'many'", "integer", "a good value looks like 15"]),
        ("train.epochs=2.5", ["`train.epochs` is 2.5", "integer"]),
        ("train.epochs=true", ["`train.epochs` is True", "true and false"]),
        ("train.lr=fast", ["`train.lr` is 'fast'", "number", "0.0003"]),
        ("train.lr=.nan", ["`train.lr` is nan", "number"]),
        ("train.weight_decay=.inf", ["`train.weight_decay` is inf", "finite number"]),
        ("data.id=00123", ["`data.id` is 83", "string"]),
        ("competition.title=yes", ["`competition.title` is True", "quote it"]),
        ("train=5", ["`train` is 5", "section", "train.epochs"]),
        ("inference.tta=hflip", ["`inference.tta` is 'hflip'", "[identity, hflip]"]),
        ("task.name=multiclas", ["`task.name` is 'multiclas'", "'multiclass', 'binary'"]),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_a_good_one(tmp_path, override, parts):
    message = refused(tmp_path, "", override)
    assert message.startswith("the command line: ")
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {epochs: 0}", "`train.epochs` is 0: input should be greater than or equal to 1"),
        ("train: {lr: 0}", "`train.lr` is 0: input should be greater than 0"),
        ("cv: {n_folds: 1}", "`cv.n_folds` is 1: input should be greater than or equal to 2"),
        ("data: {image_size: 4}", "`data.image_size` is 4: input should be greater than or equal to 8"),
        ("pseudo: {threshold: 1.0}", "`pseudo.threshold` is 1.0: input should be less than 1"),
        (
            "augment: {crop_scale: [0.5, 1.5]}",
            "`augment.crop_scale` is 1.5: input should be less than or equal to 1",
        ),
        ("name: a/b", "`name` is 'a/b': it may hold letters"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_the_bound(tmp_path, text, expected):
    assert f"experiment.yaml: {expected}" in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("augment: {crop_scale: [0.9, 0.5]}", "two rising shares"),
        ("augment: {crop_ratio: [0.0, 1.0]}", "two rising ratios"),
        ("cv: {kind: group}", "cv.kind=group needs data.group"),
        ("cv: {kind: stratified_group}", "cv.kind=stratified_group needs data.group"),
        ("distill: {teacher: experiment}", "distill.teacher=experiment is this run itself"),
        ("train: {lr: 1e-7}", "train.min_lr=1e-06 lies above train.lr=1e-07"),
        ("inference: {tta: []}", "inference.tta is empty"),
        ("fold: 5", "fold 5 does not exist: cv.n_folds=5 makes folds 0 to 4"),
        ("folds: [0, 7]", "fold 7 does not exist"),
        ("folds: [1, 1]", "each once"),
        ("folds: []", "must name one fold or more"),
        ("{fold: 1, folds: [0, 2]}", "fold and folds were both given"),
        (
            "task: {name: retrieval}\ntrain: {batch_size: 31, images_per_class: 16}",
            "train.batch_size=31 holds fewer than two identities of train.images_per_class=16",
        ),
        (
            "task: {name: segmentation}\ndata: {mask_classes: [cell, wall, cell]}",
            "data.mask_classes=['cell', 'wall', 'cell'] must name each class once",
        ),
        (
            "task: {name: segmentation}\ndata: {rle: pixels, train_masks: masks}",
            "data.rle=pixels and data.train_masks=masks both name the masks: give one",
        ),
        (
            "task: {name: segmentation}\ntrain: {loss: cross_entropy}",
            "train.loss=cross_entropy does not suit segmentation; good are bce_dice, ce_dice",
        ),
        (
            "task: {name: retrieval}\ntrain: {loss: bce_dice}",
            "train.loss=bce_dice does not suit retrieval; good are arcface, ",
        ),
        ("train: {loss: dice}", "train.loss=dice does not suit multiclass; good are cross_entropy"),
    ],
)
def test_a_combination_that_cannot_mean_anything_is_refused_with_the_reason(tmp_path, text, expected):
    message = refused(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'configs' / 'experiment.yaml'}: ")
    assert expected in message


def test_a_batch_of_two_identities_is_enough_and_other_tasks_know_none(tmp_path):
    two = "train: {batch_size: 32, images_per_class: 16}"
    assert load(tmp_path, "task: {name: retrieval}\n" + two).train.images_per_class == 16
    assert load(tmp_path, "train: {batch_size: 2}").train.images_per_class == 4


@pytest.mark.parametrize("task", LOSSES)
def test_a_task_takes_each_of_its_own_losses_and_no_other(tmp_path, task):
    for loss in {name for names in LOSSES.values() for name in names}:
        text = f"task: {{name: {task}}}\ntrain: {{loss: {loss}}}"
        if loss in LOSSES[task]:
            assert load(tmp_path, text).train.loss == loss
        else:
            assert f"train.loss={loss} does not suit {task}" in refused(tmp_path, text)


def test_a_combination_that_the_command_line_spoils_says_so(tmp_path):
    assert "experiment.yaml with the command line: fold 9 does not exist" in refused(tmp_path, "", "fold=9")


@pytest.mark.parametrize("override", ["train.lr", "=3", "--lr", "train.lr 3"])
def test_an_override_must_be_key_and_value(tmp_path, override):
    assert (
        refused(tmp_path, "", override)
        == f"the command line: {override!r} is not key=value, such as train.lr=3e-4"
    )


def test_fold_and_folds_choose_what_a_call_works_on(tmp_path):
    everything, one = load(tmp_path), load(tmp_path, "", "fold=2")
    some, all_named = load(tmp_path, "", "folds=[0,3]"), load(tmp_path, "", "folds=[4,3,2,1,0]")
    assert [c.selected_folds for c in (everything, one, some)] == [(0, 1, 2, 3, 4), (2,), (0, 3)]
    assert [c.partial for c in (everything, one, some, all_named)] == [False, True, True, False]
    assert one.settings() == everything.settings()  # a call's choice is no part of the experiment


@pytest.mark.parametrize(
    ("written", "value"), [("3e-4", 3e-4), ("1e-3", 1e-3), ("2E-2", 2e-2), ("0.01", 0.01)]
)
def test_a_number_with_an_exponent_is_a_number_in_files_and_overrides(tmp_path, written, value):
    assert load(tmp_path, f"train: {{lr: {written}}}").train.lr == value
    assert load(tmp_path, "", f"train.lr={written}").train.lr == value


def test_a_bare_off_is_the_choice_and_not_the_truth_value(tmp_path):
    assert load(tmp_path, "train:\n  amp: off\n").train.amp == "off"
    assert load(tmp_path, "", "train.amp=off").train.amp == "off"


@pytest.mark.parametrize(
    "title",
    [
        "${train.lr}",
        "${oc.env:HOME}",
        "$",
        "${",
        "???",
        'it\'s "so"',
        "a: b # c",
        "{{ x }}",
        "naïve — ✓",
        "a\nb",
    ],
)
def test_hostile_text_in_a_value_is_plain_text(tmp_path, title):
    text = yaml.safe_dump({"competition": {"title": title}}, allow_unicode=True)
    assert load(tmp_path, text).competition.title == title


def test_interpolation_on_the_command_line_is_plain_text(tmp_path):
    assert load(tmp_path, "", "competition.title=${oc.env:HOME}").competition.title == "${oc.env:HOME}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [\n", "experiment.yaml, line 2: not valid YAML"),
        ("train: {lr: 1, lr: 2}", "experiment.yaml, line 1: not valid YAML (found duplicate key lr)"),
        ("- a\n- b\n", "experiment.yaml: a config is a list of `key: value` lines, this is a list"),
        ("train.lr: 3e-4\n", "in a file write `lr:` on a line below `train:`"),
    ],
)
def test_what_is_no_config_is_refused_with_its_place(tmp_path, text, expected):
    assert expected in refused(tmp_path, text)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = write_config(tmp_path, "experiment", "")
    path.write_bytes(b"competition: {title: \xff}")
    with pytest.raises(UserError, match=r"experiment\.yaml: cannot be read as UTF-8"):
        load_config(path)


def test_the_stored_settings_read_back_as_the_same_config(tmp_path):
    overrides = [
        "train.lr=3e-4",
        "competition.title=${x} é",
        "folds=[1]",
        "inference.tta=[hflip]",
        "train.amp=off",
    ]
    config = load(tmp_path, "data: {id: '00123', group: patient}\nmodel: {weights: a.pth}", *overrides)
    stored = yaml.safe_dump(config.settings(), sort_keys=False, allow_unicode=True)
    again = load(tmp_path, stored, name="another_file_name")
    assert again.settings() == config.settings()
    assert again == config.model_copy(update={"folds": None})


def test_every_known_key_can_be_set_to_its_own_default(tmp_path):
    defaults = yaml.safe_dump(Config().settings(), sort_keys=False)
    assert load(tmp_path, defaults).settings() == Config().settings()
    settings, dotted = Config().settings(), set(known_keys()) - {"fold", "folds"}
    for key in dotted:
        value = settings
        for part in key.split("."):
            value = value[part]  # KeyError: a key that is offered and not stored
            if value is None:  # a section that is off
                break


# --- what a call costs and how it ends ----------------------------------------------------------------------

SPY = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, {root!r})
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
    code = 0
except SystemExit as stop:
    code = stop.code or 0
print("HEAVY", [name for name in {heavy!r} if name in sys.modules])
sys.exit(code)
"""


def spy(project, script: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a stage in a fresh process that says in its last line which heavy packages it has imported."""
    code = SPY.format(root=str(ROOT), heavy=HEAVY)
    command = [sys.executable, "-c", code, str(ROOT / script), *args]
    return processes.run(command, cwd=project, timeout=300)


@pytest.mark.parametrize("script", STAGES)
def test_help_imports_nothing_heavy_and_says_what_the_stage_reads_and_writes(tmp_path, script):
    done = spy(tmp_path, script, "--help")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "HEAVY []")
    assert "key=value" in done.stdout
    assert "Reads" in done.stdout
    assert "Writes" in done.stdout


@pytest.mark.parametrize("script", STAGES)
def test_a_config_error_imports_nothing_heavy_and_ends_with_status_2(project, script):
    done = spy(project, script, "train.epoch=3")
    assert (done.returncode, done.stdout) == (2, "HEAVY []\n")
    assert done.stderr == "error: the command line: unknown key `train.epoch`; did you mean `train.epochs`?\n"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("task.name=retreival", ["`task.name` is 'retreival'", "'segmentation' or 'retrieval'"]),
        ("task.metric=acuracy", ["task.metric: 'acuracy'", "accuracy"]),
        ("task={name: retrieval, metric: map_5}", ["task.metric: 'map_5'", "map5"]),
        ("model.backbone=resnet1", ["model.backbone: timm knows no 'resnet1'", "resnet18"]),
        ("inference.tta=[flip]", ["inference.tta: there is no view 'flip'", "hflip"]),
    ],
)
def test_a_name_that_nobody_knows_ends_with_status_2_and_near_names(project, stage_here, override, parts):
    done = stage_here(project, "01_folds.py", override)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert [part for part in parts if part not in done.stderr] == []
    assert not (project / "data" / "cache").exists()


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("multiclass", ""),
        ("segmentation", "task: {name: segmentation}\ndata: {rle: rle}\n"),
        ("retrieval", "task: {name: retrieval}\ndata: {target: Id, new_label: new_id}\n"),
    ],
)
def test_an_up_to_date_stage_01_says_so_and_imports_nothing_heavy(tmp_path, stage_here, task, settings):
    write_competition(tmp_path / "data" / "raw", n_train=60, n_test=20, task=task)
    write_config(tmp_path, "common", BASELINE)
    write_config(tmp_path, "baseline", "base: common\n" + settings)
    assert stage_here(tmp_path, "01_folds.py").returncode == 0
    done = spy(tmp_path, "01_folds.py")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "01 images at 16 px: up to date",
        *(["01 masks at 16 px: up to date"] if task == "segmentation" else []),
        "01 folds (2, stratified): up to date",
        "HEAVY []",
    ]


def test_show_prints_the_resolved_config_which_reads_back(project, stage_here):
    done = stage_here(project, "01_folds.py", "--show", "train.epochs=7")
    shown = yaml.safe_load(done.stdout)
    assert done.returncode == 0
    assert (shown["name"], shown["train"]["epochs"], shown["data"]["image_size"]) == ("baseline", 7, 16)
    assert load_config(write_config(project, "shown", done.stdout)).settings() == shown
