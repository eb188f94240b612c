"""Whatever the answers, a bake is complete, well formed, clean, and free of the template's own language."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

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
    ".gitignore",
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
    "pyproject.toml",
    "requirements/base.in",
    "requirements/dev.in",
    "requirements/kaggle-image.in",
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
    "src/commands/board.py",
    "src/commands/budget.py",
    "src/commands/bundle.py",
    "src/commands/compare.py",
    "src/commands/data.py",
    "src/commands/halving.py",
    "src/commands/leakcheck.py",
    "src/commands/leakscan.py",
    "src/commands/lr_find.py",
    "src/commands/noise.py",
    "src/commands/overfit.py",
    "src/commands/preview.py",
    "src/commands/push.py",
    "src/commands/rehearse.py",
    "src/commands/request.py",
    "src/commands/sample.py",
    "src/commands/send.py",
    "src/commands/smoke.py",
    "src/commands/stages.py",
    "src/commands/sweep.py",
    "src/commands/train_kernel.py",
    "src/commands/trials.py",
    "src/config/__init__.py",
    "src/config/after.py",
    "src/config/consistency.py",
    "src/config/data.py",
    "src/config/kaggle.py",
    "src/config/losses.py",
    "src/config/model.py",
    "src/config/optim.py",
    "src/config/pixels.py",
    "src/config/pseudo.py",
    "src/config/section.py",
    "src/config/train.py",
    "src/config/tree.py",
    "src/configfile.py",
    "src/data/__init__.py",
    "src/data/augment.py",
    "src/data/batches.py",
    "src/data/compression.py",
    "src/data/decode.py",
    "src/data/extra.py",
    "src/data/folds.py",
    "src/data/geometry.py",
    "src/data/hamming.py",
    "src/data/identities.py",
    "src/data/images.py",
    "src/data/levels.py",
    "src/data/loaders.py",
    "src/data/masks.py",
    "src/data/mixing.py",
    "src/data/on_device.py",
    "src/data/own.py",
    "src/data/packing.py",
    "src/data/pixels.py",
    "src/data/policies.py",
    "src/data/prepare.py",
    "src/data/runs.py",
    "src/data/sample.py",
    "src/data/sampling.py",
    "src/data/scales.py",
    "src/data/sniff/__init__.py",
    "src/data/sniff/__main__.py",
    "src/data/sniff/columns.py",
    "src/data/sniff/edit.py",
    "src/data/sniff/files.py",
    "src/data/sniff/findings.py",
    "src/data/sniff/look.py",
    "src/data/sniff/report.py",
    "src/data/sniff/task.py",
    "src/data/storing.py",
    "src/data/summary.py",
    "src/data/tables.py",
    "src/data/targets.py",
    "src/data/transfer.py",
    "src/data/unlabelled.py",
    "src/data/views.py",
    "src/data/workers.py",
    "src/decisions/__init__.py",
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
    "src/ensemble/levels.py",
    "src/ensemble/members.py",
    "src/ensemble/pairs.py",
    "src/ensemble/pixels.py",
    "src/ensemble/report.py",
    "src/ensemble/rivals/__init__.py",
    "src/ensemble/rivals/averages.py",
    "src/ensemble/rivals/base.py",
    "src/ensemble/rivals/calibration.py",
    "src/ensemble/rivals/cnn.py",
    "src/ensemble/rivals/hill_climbing.py",
    "src/ensemble/rivals/lightgbm.py",
    "src/ensemble/rivals/linear.py",
    "src/ensemble/rivals/mlp.py",
    "src/ensemble/rivals/networks.py",
    "src/ensemble/rivals/trees.py",
    "src/ensemble/rivals/xgboost.py",
    "src/ensemble/stack.py",
    "src/ensemble/tables.py",
    "src/entry.py",
    "src/inference/__init__.py",
    "src/inference/answers.py",
    "src/inference/average.py",
    "src/inference/expansion.py",
    "src/inference/oof.py",
    "src/inference/predict.py",
    "src/inference/rerank.py",
    "src/inference/search.py",
    "src/inference/snapshots.py",
    "src/inference/worst.py",
    "src/kaggle/__init__.py",
    "src/kaggle/client.py",
    "src/kaggle/dataset.py",
    "src/kaggle/download.py",
    "src/kaggle/kernels.py",
    "src/kaggle/lock.py",
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
    "src/kernel/guard.py",
    "src/kernel/image.py",
    "src/kernel/members.py",
    "src/kernel/mounts.py",
    "src/kernel/rehearse.py",
    "src/kernel/run.py",
    "src/kernel/sandbox.py",
    "src/kernel/search.py",
    "src/kernel/summary.py",
    "src/kernel/test.py",
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
    "src/losses/known.py",
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
    "src/pseudo/ask.py",
    "src/pseudo/balance.py",
    "src/pseudo/calibrate.py",
    "src/pseudo/confidence.py",
    "src/pseudo/labels.py",
    "src/pseudo/precision.py",
    "src/pseudo/report.py",
    "src/pseudo/rounds.py",
    "src/pseudo/select.py",
    "src/pseudo/steps.py",
    "src/pseudo/verdict.py",
    "src/rawfiles.py",
    "src/report/__init__.py",
    "src/report/outputs.py",
    "src/report/pictures.py",
    "src/report/preview.py",
    "src/report/rates.py",
    "src/report/trials.py",
    "src/scoring.py",
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
    "src/training/design.py",
    "src/training/devices.py",
    "src/training/fit.py",
    "src/training/fold.py",
    "src/training/freeze.py",
    "src/training/groups.py",
    "src/training/launch.py",
    "src/training/lr_finder.py",
    "src/training/notes.py",
    "src/training/optim.py",
    "src/training/overfit.py",
    "src/training/pool.py",
    "src/training/probe.py",
    "src/training/schedule.py",
    "src/training/snapshots.py",
    "src/training/soup.py",
    "src/training/teachers.py",
    "src/training/watch.py",
    "src/training/windows.py",
    "src/training/world.py",
    "tests/competitions.py",
    "tests/conftest.py",
    "tests/digits.py",
    "tests/leakchecks.py",
    "tests/kaggle_server/__init__.py",
    "tests/kaggle_server/api.py",
    "tests/kaggle_server/desk.py",
    "tests/kaggle_server/numbers.py",
    "tests/kaggle_server/protocol.py",
    "tests/kaggle_server/records.py",
    "tests/kaggle_server/runs.py",
    "tests/networks.py",
    "tests/rehearsals.py",
    "tests/several_devices.py",
    "tests/six_stages.py",
    "tests/test_ablate.py",
    "tests/test_adversarial.py",
    "tests/test_all.py",
    "tests/test_after_a_run.py",
    "tests/test_answers.py",
    "tests/test_artifacts.py",
    "tests/test_attenuation.py",
    "tests/test_augment.py",
    "tests/test_averaging.py",
    "tests/test_backbone_stages.py",
    "tests/test_balance.py",
    "tests/test_batches.py",
    "tests/test_board.py",
    "tests/test_cached_crops.py",
    "tests/test_calibrate.py",
    "tests/test_checkpointing.py",
    "tests/test_class_losses.py",
    "tests/test_class_weights.py",
    "tests/test_composition.py",
    "tests/test_confidence.py",
    "tests/test_config.py",
    "tests/test_config_train.py",
    "tests/test_consistency.py",
    "tests/test_decisions.py",
    "tests/test_devices.py",
    "tests/test_embedding_losses.py",
    "tests/test_entry.py",
    "tests/test_every_loss.py",
    "tests/test_external.py",
    "tests/test_final_weights.py",
    "tests/test_folds.py",
    "tests/test_geometry.py",
    "tests/test_hamming.py",
    "tests/test_heads.py",
    "tests/test_hill_climbing.py",
    "tests/test_ibn.py",
    "tests/test_identities.py",
    "tests/test_images.py",
    "tests/test_kaggle_client.py",
    "tests/test_kaggle_dataset.py",
    "tests/test_kaggle_download.py",
    "tests/test_kaggle_metadata.py",
    "tests/test_kaggle_push.py",
    "tests/test_kaggle_send.py",
    "tests/test_kaggle_submissions.py",
    "tests/test_kaggle_train.py",
    "tests/test_kernel.py",
    "tests/test_kernel_tables.py",
    "tests/test_label_losses.py",
    "tests/test_launcher.py",
    "tests/test_leakcheck.py",
    "tests/test_leakcheck_by_task.py",
    "tests/test_leaks.py",
    "tests/test_levels.py",
    "tests/test_loaders.py",
    "tests/test_loss_config.py",
    "tests/test_loss_training.py",
    "tests/test_locks.py",
    "tests/test_losses.py",
    "tests/test_lr_finder.py",
    "tests/test_maps.py",
    "tests/test_margins.py",
    "tests/test_masks.py",
    "tests/test_metrics.py",
    "tests/test_mixing.py",
    "tests/test_model_options.py",
    "tests/test_models.py",
    "tests/test_names.py",
    "tests/test_novelty.py",
    "tests/test_on_device.py",
    "tests/test_optim.py",
    "tests/test_optimism.py",
    "tests/test_overfit.py",
    "tests/test_own_preprocessing.py",
    "tests/test_packing.py",
    "tests/test_pairs.py",
    "tests/test_parts.py",
    "tests/test_pixel_config.py",
    "tests/test_pixels.py",
    "tests/test_policies.py",
    "tests/test_pool.py",
    "tests/test_pooling.py",
    "tests/test_predict.py",
    "tests/test_preview.py",
    "tests/test_progress.py",
    "tests/test_pseudo.py",
    "tests/test_refused_masks_and_identities.py",
    "tests/test_rehearse.py",
    "tests/test_relations.py",
    "tests/test_rerank.py",
    "tests/test_resume.py",
    "tests/test_rivals.py",
    "tests/test_rounds.py",
    "tests/test_runs.py",
    "tests/test_sampling.py",
    "tests/test_scale.py",
    "tests/test_scales.py",
    "tests/test_schedule.py",
    "tests/test_search.py",
    "tests/test_segmentation_model.py",
    "tests/test_six_stages_by_task.py",
    "tests/test_six_stages_of_masks.py",
    "tests/test_six_stages_of_retrieval.py",
    "tests/test_smoke.py",
    "tests/test_sniff.py",
    "tests/test_stack.py",
    "tests/test_stack_features.py",
    "tests/test_stack_tables.py",
    "tests/test_stages.py",
    "tests/test_storage.py",
    "tests/test_submission.py",
    "tests/test_sweep.py",
    "tests/test_tables.py",
    "tests/test_tasks.py",
    "tests/test_tasks_of_maps_and_rankings.py",
    "tests/test_teachers.py",
    "tests/test_to_the_leaderboard.py",
    "tests/test_tracking.py",
    "tests/test_training_parts.py",
    "tests/test_views.py",
    "tests/test_watch.py",
    "tests/test_workers.py",
    "tests/test_world.py",
    "tests/test_zoo.py",
    "tests/trainers.py",
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
    run = subprocess.run(ruff, cwd=project, capture_output=True, text=True)
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
