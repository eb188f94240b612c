"""The hooks refuse what cannot work, say why in plain words, and leave nothing behind."""

import importlib.metadata
import json
import runpy
import shutil
import sys
from pathlib import Path

import processes
import pytest
from conftest import ROOT, bake_into, git

# answer, a value that must be refused, a part of what the refusal shows as a good one
REFUSED = [
    ("comp_name", "ab", "digit-recognizer"),
    ("comp_name", "x" * 81, "digit-recognizer"),
    ("comp_name", "Digit-Recognizer", "digit-recognizer"),
    ("comp_name", "digit recognizer", "digit-recognizer"),
    ("comp_name", "digit_recognizer", "digit-recognizer"),
    ("comp_name", "digit--recognizer", "digit-recognizer"),
    ("comp_name", "-digits", "digit-recognizer"),
    ("comp_name", "digits-", "digit-recognizer"),
    ("comp_name", "digits\n", "digit-recognizer"),
    ("comp_name", "digits/today", "digit-recognizer"),
    ("comp_name", "../../digits", "digit-recognizer"),
    ("comp_name", "$(touch pwned)", "digit-recognizer"),
    ("title", "", "one line"),
    ("title", "   ", "one line"),
    ("title", "x" * 101, "one line"),
    ("title", "two\nlines", "one line"),
    ("title", "a tab\there", "one line"),
    ("title", "a bell\x07", "one line"),
    ("title", "whales \N{SPOUTING WHALE}", "emoji"),
    ("metric", "acuracy", "accuracy"),
    ("metric", "rmse", "accuracy"),
    ("backbone", "", "resnet18"),
    ("backbone", "ResNet18", "resnet18"),
    ("backbone", "resnet18.a1.in1k", "resnet18.a1_in1k"),
    ("backbone", "timm/resnet18", "resnet18"),
    ("backbone", "resnet18'); print('", "resnet18"),
    ("image_size", "15", "16 to 2048"),
    ("image_size", "2049", "16 to 2048"),
    ("image_size", "224.0", "16 to 2048"),
    ("image_size", "0224", "16 to 2048"),
    ("image_size", "large", "16 to 2048"),
    ("image_size", "9" * 5000, "16 to 2048"),
    ("image_size", "٢٢٤", "16 to 2048"),
    ("n_folds", "1", "2 to 20"),
    ("n_folds", "21", "2 to 20"),
    ("n_folds", "-5", "2 to 20"),
    ("n_folds", "", "2 to 20"),
    ("pseudo_threshold", "0.5", "0.9"),
    ("pseudo_threshold", "1.0", "0.9"),
    ("pseudo_threshold", "90", "0.9"),
    ("pseudo_threshold", "0,9", "0.9"),
    ("pseudo_threshold", "nan", "0.9"),
    ("kaggle_username", "quick fox", "quickfox"),
    ("kaggle_username", "fox@example.org", "quickfox"),
    ("kaggle_username", "x" * 51, "quickfox"),
]


def refusal(bake, capfd, **answers: str) -> str:
    """Bake, expect to be refused, and return what was said."""
    from cookiecutter.exceptions import FailedHookException

    with pytest.raises(FailedHookException):
        bake(**answers)
    return capfd.readouterr().err


@pytest.mark.parametrize(("name", "value", "good"), REFUSED)
def test_a_bad_answer_is_refused_by_name_with_a_good_one_and_leaves_nothing(
    bake, tmp_path, capfd, name, value, good
):
    said = refusal(bake, capfd, **{name: value})
    line = next(line for line in said.splitlines() if line.startswith(f"  {name} is "))
    assert repr(value) in line
    assert good in line
    assert list(tmp_path.iterdir()) == []


def test_every_bad_answer_is_named_at_once(bake, capfd):
    said = refusal(bake, capfd, comp_name="No Slug", image_size="8", n_folds="1", metric="nothing")
    for name in ("comp_name", "image_size", "n_folds", "metric"):
        assert f"  {name} is " in said


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_is_no_folder_touches_nothing(bake, tmp_path, name):
    from cookiecutter.exceptions import OutputDirExistsException

    with pytest.raises(OutputDirExistsException):
        bake(comp_name=name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_before_survives_a_refusal(bake, tmp_path, capfd):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "notes.txt").write_text("mine")
    from cookiecutter.exceptions import OutputDirExistsException

    with pytest.raises(OutputDirExistsException):
        bake(comp_name="digits", n_folds="1")
    assert (tmp_path / "digits" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "answers",
    [
        {"comp_name": "abc"},
        {"comp_name": "google-research-identify-contrails-reduce-global-warming"},
        {"comp_name": "playground-series-s4e1"},
        {"image_size": "16", "n_folds": "2", "pseudo_threshold": "0.51"},
        {"image_size": "2048", "n_folds": "20", "pseudo_threshold": "0.999"},
        {"backbone": "vit_base_patch14_reg4_dinov2.lvd142m"},
        {"kaggle_username": "a"},
    ],
)
def test_an_answer_at_the_edge_of_what_is_allowed_is_taken(bake, answers):
    assert bake(**answers).is_dir()


def test_answers_typed_at_the_prompts_are_checked_too(template, tmp_path):
    """Unlike those on the command line they are not rendered, so a tag of the template reaches the hook."""
    typed = "digits\na << b\n" + "\n" * 8
    command = [sys.executable, "-m", "cookiecutter", "--default-config", "-o", str(tmp_path), str(template)]
    run = processes.run(command, input=typed)
    assert run.returncode == 1
    assert "title is 'a << b'; it should be one line" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_prompt_has_a_label_and_there_are_ten_at_most():
    settings = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    prompts = [name for name in settings if not name.startswith("_")]
    assert list(settings["__prompts__"]) == prompts
    assert len(prompts) <= 10


@pytest.mark.parametrize("old", ["2.5.0", "1.7.3", "2.5.1.dev0"])
def test_an_old_cookiecutter_is_told_to_update(monkeypatch, old):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: old)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "hooks/pre_prompt.py"))
    assert stop.value.code == (
        f"This template needs cookiecutter 2.6 or newer, not {old}: pip install -U cookiecutter"
    )


@pytest.mark.parametrize("new", ["2.6.0", "2.10.1", "3.0.0rc1"])
def test_a_new_cookiecutter_is_let_in(monkeypatch, new):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: new)
    runpy.run_path(str(ROOT / "hooks/pre_prompt.py"))


def test_the_hook_knows_the_metrics_of_the_project(project):
    """The hook is alone when it runs; that its list is the project's own can only be held by a test."""
    hook = rendered_hook("pre_gen_project.py")
    code = (
        "import json; from src.metrics import METRICS, names;"
        "print(json.dumps({task: names(task) for task in METRICS}))"
    )
    run = processes.run([sys.executable, "-c", code], cwd=project)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {task: list(metrics) for task, metrics in hook["METRICS"].items()}
    choices = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))["task"]
    assert sorted(choices) == sorted(hook["METRICS"])


def rendered_hook(name: str) -> dict:
    """The names that a hook defines, rendered as cookiecutter would, with the default answers."""
    from cookiecutter.utils import create_env_with_context

    answers = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    context = {"cookiecutter": answers}
    source = (ROOT / "hooks" / name).read_text(encoding="utf-8")
    names: dict = {"__name__": name}
    exec(create_env_with_context(context).from_string(source).render(**context), names)
    return names


def test_a_new_project_is_a_git_repository_on_main_with_nothing_committed(bake):
    status = git(bake(), "status", "--short", "--branch")
    assert "No commits yet on main" in status
    assert "?? Makefile" in status


def test_a_project_inside_a_repository_does_not_become_one_of_its_own(template, tmp_path):
    git(tmp_path, "init", "--quiet")
    assert not (bake_into(tmp_path, template) / ".git").exists()


def test_a_project_is_baked_where_there_is_no_git(template, tmp_path, monkeypatch):
    """cookiecutter needs none for a local folder, so neither do the hooks."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert shutil.which("git") is None
    project = bake_into(tmp_path / "out", template)
    assert (project / "Makefile").is_file()
    assert not (project / ".git").exists()


def test_the_code_of_the_hooks_says_nothing_to_the_network():
    imports = {"json", "re", "sys", "shutil", "subprocess", "pathlib", "importlib.metadata"}
    for hook in Path(ROOT / "hooks").glob("*.py"):
        for line in hook.read_text(encoding="utf-8").splitlines():
            if line.startswith(("import ", "from ")):
                assert line.split()[1] in imports, f"{hook.name}: {line}"
