"""Whatever the answers, a bake is complete, well formed, clean, and free of the template's own language."""

import json
import sys
import tomllib
from pathlib import Path

import processes
import pytest
import yaml
from conftest import bake_into, files_of

# Each stands for one way in which a bake can differ.
COMBINATIONS = {
    "defaults": {},
    "small and quick": {"image_size": "32", "n_folds": "3", "backbone": "test_resnet"},
    "a metric and tagged weights": {"metric": "log_loss", "backbone": "convnextv2_atto.fcmae_ft_in1k"},
    "a binary task": {"task": "binary"},
    "many labels, scored by decisions": {"task": "multilabel", "metric": "f1_macro"},
    "a number": {"task": "regression", "metric": "mae"},
    "a strict threshold and a username": {"pseudo_threshold": "0.99", "kaggle_username": "Quick_Fox-7"},
    "BSD licence": {"license": "BSD-3-Clause"},
    "no licence": {"license": "none"},
    "a hostile title": {"title": '\'"""\\\'; import os {{ }} {% %} ${oc.env:HOME} # : - é'},
}

# Titles that would break out of a careless template: quotes, code, and every format's own special signs.
HOSTILE_TITLES = [
    "Cats & Dogs: who's who?",
    '"; __import__("os").system("touch pwned"); "',
    '"""); __import__("os").system("touch pwned"); ("""',
    "'''; import os; os.system('touch pwned'); '''",
    "$(touch pwned) `touch pwned` ; touch pwned",
    "ends in a backslash \\",
    '\\" \\n \\u0041 \\x41 C:\\temp',
    "{{ cookiecutter.comp_name }} {% raw %} {# no #} >> %> #>",
    "${oc.env:HOME} ${HOME} $HOME %s %(x)s %d {0} {x}",
    "# not a comment: [not, a list] - {not: a map} & *anchor !tag | > @ `",
    "Ünïcödé 数字認識 Ελληνικά العربية",
    "  spaces around  ",
    "null",
    "1e3",
]

FILES = {
    ".editorconfig",
    ".github/workflows/test.yml",
    ".gitignore",
    ".pre-commit-config.yaml",
    "LICENSE",
    "Makefile",
    "README.md",
    "configs/ablate.yaml",
    "configs/baseline.yaml",
    "configs/default.yaml",
    "configs/student.yaml",
    "kernel/infer.py",
    "kernel/train.py",
    "data/raw/.gitkeep",
    "docs/config.md",
    "pyproject.toml",
    "requirements/base.in",
    "requirements/dev.in",
    "requirements/kaggle-image.in",
    "requirements/kaggle-packages.txt",
    "requirements/kaggle-timm.txt",
    "requirements/kaggle.in",
    "requirements/kaggle.lock",
    "requirements/lock.txt",
    "01_folds.py",
    "02_train.py",
    "03_oof_predict.py",
    "04_pseudo_label.py",
    "05_stack.py",
    "06_submit.py",
    "src/__init__.py",
    "src/artifacts.py",
    "src/cli.py",
    "src/commands/__init__.py",
    "src/commands/ablate.py",
    "src/commands/adversarial.py",
    "src/commands/all.py",
    "src/commands/leaderboard.py",
    "src/commands/budget.py",
    "src/commands/bundle.py",
    "src/commands/compare.py",
    "src/commands/config.py",
    "src/commands/data.py",
    "src/commands/halving.py",
    "src/commands/leakcheck.py",
    "src/commands/leakscan.py",
    "src/commands/lr_find.py",
    "src/commands/permuted_labels.py",
    "src/commands/overfit.py",
    "src/commands/preview.py",
    "src/commands/push.py",
    "src/commands/rehearse.py",
    "src/commands/request.py",
    "src/commands/small_copy.py",
    "src/commands/send.py",
    "src/commands/smoke.py",
    "src/commands/stages.py",
    "src/commands/sweep.py",
    "src/commands/train_kernel.py",
    "src/commands/trials.py",
    "src/config/__init__.py",
    "src/config/consistency.py",
    "src/config/data.py",
    "src/config/distill.py",
    "src/config/effects.py",
    "src/config/inference.py",
    "src/config/kaggle.py",
    "src/config/losses.py",
    "src/config/model.py",
    "src/config/optim.py",
    "src/config/pixels.py",
    "src/config/pseudo.py",
    "src/config/reference.py",
    "src/config/runtime.py",
    "src/config/section.py",
    "src/config/stack.py",
    "src/config/train.py",
    "src/config/tree.py",
    "src/configfile.py",
    "src/data/__init__.py",
    "src/data/augment.py",
    "src/data/batches.py",
    "src/data/classes.py",
    "src/data/compression.py",
    "src/data/damage.py",
    "src/data/decode.py",
    "src/data/domain.py",
    "src/data/extra.py",
    "src/data/folds.py",
    "src/data/geometry.py",
    "src/data/hamming.py",
    "src/data/identities.py",
    "src/data/images.py",
    "src/data/mask_targets.py",
    "src/data/loaders.py",
    "src/data/masks.py",
    "src/data/mixing.py",
    "src/data/on_device.py",
    "src/data/orientation.py",
    "src/data/own.py",
    "src/data/packing.py",
    "src/data/pixels.py",
    "src/data/policies.py",
    "src/data/prepare.py",
    "src/data/rle.py",
    "src/data/submission_form.py",
    "src/data/sampling.py",
    "src/data/multi_scale.py",
    "src/data/sniff/__init__.py",
    "src/data/sniff/__main__.py",
    "src/data/sniff/columns.py",
    "src/data/sniff/edit.py",
    "src/data/sniff/files.py",
    "src/data/sniff/findings.py",
    "src/data/sniff/look.py",
    "src/data/sniff/report.py",
    "src/data/sniff/task.py",
    "src/data/store_writers.py",
    "src/data/summary.py",
    "src/data/tables.py",
    "src/data/targets.py",
    "src/data/transfer.py",
    "src/data/unlabelled.py",
    "src/data/views.py",
    "src/data/workers.py",
    "src/decisions/__init__.py",
    "src/decisions/constant.py",
    "src/decisions/cuts.py",
    "src/decisions/masks.py",
    "src/decisions/novelty.py",
    "src/decisions/thresholds.py",
    "src/ensemble/__init__.py",
    "src/ensemble/apply.py",
    "src/ensemble/attenuation.py",
    "src/ensemble/boosting.py",
    "src/ensemble/choice.py",
    "src/ensemble/features.py",
    "src/ensemble/second_level.py",
    "src/ensemble/members.py",
    "src/ensemble/pairs.py",
    "src/ensemble/pixels.py",
    "src/ensemble/report.py",
    "src/ensemble/blenders/__init__.py",
    "src/ensemble/blenders/averages.py",
    "src/ensemble/blenders/base.py",
    "src/ensemble/blenders/calibration.py",
    "src/ensemble/blenders/cnn.py",
    "src/ensemble/blenders/hill_climbing.py",
    "src/ensemble/blenders/lightgbm.py",
    "src/ensemble/blenders/linear.py",
    "src/ensemble/blenders/mlp.py",
    "src/ensemble/blenders/networks.py",
    "src/ensemble/blenders/trees.py",
    "src/ensemble/blenders/xgboost.py",
    "src/ensemble/stack.py",
    "src/ensemble/tables.py",
    "src/entry.py",
    "src/inference/__init__.py",
    "src/inference/fold_tables.py",
    "src/inference/average.py",
    "src/inference/expansion.py",
    "src/inference/oof.py",
    "src/inference/predict.py",
    "src/inference/rerank.py",
    "src/inference/nearest.py",
    "src/inference/snapshots.py",
    "src/inference/worst_images.py",
    "src/kaggle/__init__.py",
    "src/kaggle/client.py",
    "src/kaggle/dataset.py",
    "src/kaggle/download.py",
    "src/kaggle/kernels.py",
    "src/kaggle/metadata.py",
    "src/kaggle/names.py",
    "src/kaggle/output.py",
    "src/kaggle/parcels.py",
    "src/kaggle/push.py",
    "src/kaggle/receipts.py",
    "src/kaggle/replies.py",
    "src/kaggle/scan.py",
    "src/kaggle/secrets.py",
    "src/kaggle/send.py",
    "src/kaggle/submissions.py",
    "src/kaggle/training.py",
    "src/kaggle/transfer.py",
    "src/kaggle/unpack.py",
    "src/kaggle/waiting.py",
    "src/kernel/__init__.py",
    "src/kernel/asked.py",
    "src/kernel/bundle.py",
    "src/kernel/time_guard.py",
    "src/kernel/image.py",
    "src/kernel/members.py",
    "src/kernel/test_sets.py",
    "src/kernel/pace.py",
    "src/kernel/prior.py",
    "src/kernel/projection.py",
    "src/kernel/rehearse.py",
    "src/kernel/run.py",
    "src/kernel/sandbox.py",
    "src/kernel/search.py",
    "src/kernel/summary.py",
    "src/kernel/hidden_test.py",
    "src/kernel/verdict.py",
    "src/locks.py",
    "src/losses/__init__.py",
    "src/losses/balance.py",
    "src/losses/base.py",
    "src/losses/build.py",
    "src/losses/center.py",
    "src/losses/classes.py",
    "src/losses/classification.py",
    "src/losses/consistency.py",
    "src/losses/distillation.py",
    "src/losses/fbeta.py",
    "src/losses/masked.py",
    "src/losses/labels.py",
    "src/losses/lovasz.py",
    "src/losses/margins.py",
    "src/losses/reduction.py",
    "src/losses/regression.py",
    "src/losses/relations.py",
    "src/losses/segmentation.py",
    "src/losses/triplet.py",
    "src/machine.py",
    "src/maps.py",
    "src/metrics/__init__.py",
    "src/metrics/base.py",
    "src/metrics/binary.py",
    "src/metrics/counts.py",
    "src/metrics/multiclass.py",
    "src/metrics/multilabel.py",
    "src/metrics/own.py",
    "src/metrics/regression.py",
    "src/metrics/retrieval.py",
    "src/metrics/segmentation.py",
    "src/models/__init__.py",
    "src/models/architecture.py",
    "src/models/backbone.py",
    "src/models/branch.py",
    "src/models/build.py",
    "src/models/checkpointing.py",
    "src/models/features.py",
    "src/models/heads.py",
    "src/models/ibn.py",
    "src/models/laststage.py",
    "src/models/names.py",
    "src/models/necks.py",
    "src/models/network.py",
    "src/models/output.py",
    "src/models/parts.py",
    "src/models/pooling.py",
    "src/models/scale.py",
    "src/models/segmentation.py",
    "src/models/sizes.py",
    "src/models/stages.py",
    "src/models/weights.py",
    "src/optimism.py",
    "src/owncode.py",
    "src/progress.py",
    "src/pseudo/__init__.py",
    "src/pseudo/predictions.py",
    "src/pseudo/class_balance.py",
    "src/pseudo/calibrate.py",
    "src/pseudo/confidence.py",
    "src/pseudo/labels.py",
    "src/pseudo/outcome.py",
    "src/pseudo/precision.py",
    "src/pseudo/report.py",
    "src/pseudo/rounds.py",
    "src/pseudo/select.py",
    "src/pseudo/steps.py",
    "src/pseudo/verdict.py",
    "src/rawfiles.py",
    "src/reading.py",
    "src/report/__init__.py",
    "src/report/outputs.py",
    "src/report/pictures.py",
    "src/report/preview.py",
    "src/report/lr_curve.py",
    "src/report/trials.py",
    "src/scoring.py",
    "src/stamps.py",
    "src/steps.py",
    "src/submission/__init__.py",
    "src/submission/forms.py",
    "src/submission/log.py",
    "src/submission/manifest.py",
    "src/submission/table.py",
    "src/tasks/__init__.py",
    "src/tasks/base.py",
    "src/tasks/binary.py",
    "src/tasks/multiclass.py",
    "src/tasks/multilabel.py",
    "src/tasks/regression.py",
    "src/tasks/retrieval.py",
    "src/tasks/segmentation.py",
    "src/tracking.py",
    "src/training/__init__.py",
    "src/training/averaging.py",
    "src/training/batchnorm.py",
    "src/training/checkpoint.py",
    "src/training/consistency.py",
    "src/training/architecture.py",
    "src/training/devices.py",
    "src/training/trainer.py",
    "src/training/fold.py",
    "src/training/freeze.py",
    "src/training/parameter_groups.py",
    "src/training/launch.py",
    "src/training/lr_finder.py",
    "src/training/teacher_cache.py",
    "src/training/optim.py",
    "src/training/overfit.py",
    "src/training/worker_pool.py",
    "src/training/probe.py",
    "src/training/schedule.py",
    "src/training/snapshots.py",
    "src/training/soup.py",
    "src/training/teachers.py",
    "src/training/loss_monitor.py",
    "src/training/single_steps.py",
    "src/training/distributed.py",
    "tests/conftest.py",
    "tests/digits.py",
    "tests/test_configs.py",
    "tests/test_own.py",
    "tests/test_pipeline.py",
}


@pytest.fixture(scope="module", params=COMBINATIONS.values(), ids=COMBINATIONS.keys())
def combination(request, template, tmp_path_factory) -> tuple[dict[str, str], Path]:
    """The answers, and the project baked with them."""
    return request.param, bake_into(tmp_path_factory.mktemp("combination"), template, **request.param)


def rendered_texts(project: Path) -> dict[str, str]:
    names = sorted(name for name in files_of(project) if not name.endswith((".py", ".png", ".jpg")))
    return {name: (project / name).read_text(encoding="utf-8") for name in names}


def parse(path: Path) -> object:
    readers = {".json": json.loads, ".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}
    return readers[path.suffix](path.read_text(encoding="utf-8"))


def test_a_bake_holds_exactly_the_files_it_should(combination):
    answers, project = combination
    expected = FILES - {"LICENSE"} if answers.get("license") == "none" else FILES
    assert files_of(project) == expected


def test_no_delimiter_and_no_variable_of_the_template_is_left(combination):
    _, project = combination
    leftovers = ("<<", "<%", "<#", "cookiecutter.")
    found = [
        (name, leftover)
        for name, text in rendered_texts(project).items()
        for leftover in leftovers
        if leftover in text
    ]
    assert found == []


def test_every_python_file_compiles(combination):
    _, project = combination
    for path in project.rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


def test_every_yaml_toml_and_json_file_parses(combination):
    _, project = combination
    structured = [name for name in files_of(project) if name.endswith((".yaml", ".yml", ".toml", ".json"))]
    assert {"pyproject.toml", "configs/default.yaml"} <= set(structured)
    for name in structured:
        assert isinstance(parse(project / name), dict), name


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_ruff_finds_nothing_to_mend(combination, command):
    _, project = combination
    ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
    run = processes.run(ruff, cwd=project)
    assert run.returncode == 0, run.stdout + run.stderr


def test_no_cache_or_compiled_file_comes_along(combination):
    _, project = combination
    junk = {"__pycache__", ".pytest_cache", ".ruff_cache", ".venv", ".DS_Store"}
    assert [name for name in files_of(project) if junk & set(Path(name).parts) or name.endswith(".pyc")] == []


def test_the_answers_arrive_in_the_config(bake):
    project = bake(
        comp_name="leaf-disease",
        title="Leaf disease",
        metric="qwk",
        backbone="resnet34.a1_in1k",
        image_size="384",
        n_folds="7",
        pseudo_threshold="0.95",
        kaggle_username="quickfox",
    )
    text = "".join((project / "configs" / name).read_text() for name in ("default.yaml", "baseline.yaml"))
    assert project.name == "leaf-disease"
    for answer in ("qwk", "resnet34.a1_in1k", "384", "7", "0.95", "multiclass"):
        assert answer in text
    competition = parse(project / "configs/default.yaml")["competition"]
    assert competition == {"slug": "leaf-disease", "title": "Leaf disease", "kaggle_username": "quickfox"}


@pytest.mark.parametrize("title", HOSTILE_TITLES)
def test_a_hostile_title_is_text_and_nothing_else(bake, project, title, tmp_path):
    hostile = bake(title=title)
    assert parse(hostile / "configs/default.yaml")["competition"]["title"] == title
    assert parse(hostile / "pyproject.toml")["project"]["description"] == title
    assert list(tmp_path.rglob("pwned")) == []
    assert files_of(hostile) == files_of(project)


def test_each_licence_is_the_one_asked_for(bake):
    assert (
        (bake(comp_name="one") / "LICENSE")
        .read_text()
        .startswith("MIT License\n\nCopyright (c) the authors of one\n")
    )
    bsd = bake(comp_name="two", license="BSD-3-Clause", kaggle_username="quickfox")
    assert (bsd / "LICENSE").read_text().startswith("BSD 3-Clause License\n\nCopyright (c) quickfox\n")
    assert parse(bsd / "pyproject.toml")["project"]["license"] == "BSD-3-Clause"
    none = bake(comp_name="three", license="none")
    assert not (none / "LICENSE").exists()
    assert "license" not in parse(none / "pyproject.toml")["project"]
