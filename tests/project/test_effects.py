"""Every key of the config does something, or is refused with the reason, or enters no fingerprint: for every
key, task, loss, schedule, optimiser, decoder and head.

To add a key, add its values to `VALUES`, and what it does to a probe of effect_probes.py; or its name to
`ELSEWHERE`, with the test that looks at it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import effect_probes
import pytest
import yaml
from conftest import ROOT, write_config
from pydantic import ValidationError
from test_composition import leaves

from src.cli import check_known_names
from src.commands.ablate import read_changes
from src.commands.trials import Trials
from src.config import LOSSES, Config, NoEffect, UserError
from src.config.effects import HOW, NEEDS, NULL_IS, effective, ignored, is_there, value_of, without_effect
from src.config.losses import Losses
from src.config.optim import Optim
from src.configfile import load_config
from src.steps import run_of, train_step

TASKS = tuple(LOSSES)
CLASSES, COLUMNS = ("multiclass", "retrieval"), ("multiclass", "binary", "multilabel")

VALUES: dict[str, tuple[Any, ...]] = {  # what each key is changed to
    "cv.kind": ("plain",),
    "cv.n_folds": (3,),
    "cv.seed": (1,),
    "cv.stop_parts": (4,),
    "cv.new_share": (0.6,),
    "model.backbone": ("test_efficientnet",),
    "model.drop_rate": (0.3,),
    "model.drop_path_rate": (0.5,),
    "model.decoder": ("fpn",),
    "model.embedding": (16,),
    "model.pooling": ("max", "dual", "gem"),  # avg is test_resnet's own
    "model.neck": ("bnneck",),
    "model.dropout_samples": (3,),
    "model.ibn": ("a", "b"),
    "model.parts": ("pcb", "mgn"),
    "model.stripes": (2,),
    "model.subcenters": (1, 2),
    "model.normalize": ("backbone",),
    "augment.hflip": (0.0,),
    "augment.vflip": (0.5,),
    "augment.crop_scale": ([0.4, 0.6], [1.0, 1.0]),
    "augment.crop_ratio": ([0.5, 0.6],),
    "augment.rotate": (30.0,),
    "augment.shift": (0.2,),
    "augment.zoom": (0.3,),
    "augment.brightness": (0.3,),
    "augment.contrast": (0.3,),
    "augment.cutout": (1.0,),
    "augment.crop": ("resized", "random", "centre"),
    "augment.d4": (0.0, 1.0),
    "augment.hue": (0.0, 0.3),
    "augment.saturation": (0.0, 0.5),
    "augment.gamma": (0.0, 0.5),
    "augment.blur": (0.0, 1.0),
    "augment.noise": (0.0, 1.0),
    "augment.compression": (0.0, 1.0),
    "augment.erasing": (0.0, 1.0),
    "augment.policy": ("autoaugment", "randaugment", "trivialaugment"),
    "augment.operations": (2, 4),
    "augment.magnitude": (9, 30),
    "augment.scales": ([0.5, 1.0],),
    "mixing.mixup": (0.5,),
    "mixing.cutmix": (1.0,),
    "mixing.share": (0.5,),
    "mixing.off_epochs": (1,),
    **{
        "train.loss": tuple(sorted({name for names in LOSSES.values() for name in names})),
        "train.label_smoothing": (0.0, 0.3),
        "train.huber_delta": (0.1,),
        "train.dice_weight": (0.9,),
        "train.lovasz_weight": (0, 0.5),
        "train.center_weight": (0, 0.1),
        "train.focal.gamma": (3.0,),
        "train.focal.alpha": (0.25,),
        "train.asymmetric.gamma_positive": (1.0,),
        "train.asymmetric.gamma_negative": (2.0,),
        "train.asymmetric.shift": (0.2,),
        "train.symmetric.alpha": (6.0,),
        "train.symmetric.beta": (0.1,),
        "train.generalized_q": (0.3,),
        "train.fbeta": (2.0,),
        "train.margin.scale": (16.0,),
        "train.margin.size": (0.2, 1.2),
        "train.margin.rarest": (0.4, 1.5),
        "train.margin.triplet_weight": (0.0, 1.0),
        "train.margin.triplet": (0.3,),
        "train.class_weights": ("inverse", "effective"),
        "train.effective_beta": (0.5,),
        "train.top_share": (0.5,),
        "train.target_log": (True,),
        "train.optimizer": ("adamw", "sgd", "lion", "nadam", "radam"),
        "train.lr": (1e-3,),
        "train.momentum": (0.9, 0.8),
        "train.weight_decay": (0.05,),
        "train.clip_grad": (1.0,),
        "train.schedule": ("constant", "plateau", "onecycle", "exponential", "inverse_time"),
        "train.warmup_epochs": (0.0, 0.5),
        "train.hold_epochs": (0.0, 0.4),
        "train.min_lr": (2e-4,),
        "train.cycles": (1, 2),
        "train.cycle_decay": (1, 0.5),
        "train.steps": ([1.7, 2.2],),
        "train.step_lrs": ([2e-4, 1e-5],),
        "train.lr_decay": (0.1, 0.3, 0.5),
        "train.plateau_patience": (1, 4),
        "train.backbone_lr": (0.1, 1),
        "train.layer_decay": (0.75,),
        "train.freeze_epochs": (1,),
        "train.freeze_stages": (1,),
        "train.freeze_bn": (True,),
        "train.epochs": (6,),
        "train.batch_size": (12,),
        "train.accumulate": (2,),
        "train.sampling": ("balanced", "sqrt"),
        "train.images_per_class": (2,),
        "train.early_stopping.enabled": (False,),
        "train.early_stopping.patience": (1, None),
        "train.ema.enabled": (False,),
        "train.ema.decay": (0.1,),
        "train.swa.start": (0.5,),
        "train.swa.lr": (1e-4,),
        "train.swa.anneal_epochs": (1,),
        "train.snapshots": (2,),
        "train.soup": (2,),
    },
    "distill.teacher": ("other", ["teacher", "other"]),
    "distill.weight": (0.2, 0.0),
    "distill.temperature": (4.0,),
    "distill.hard": (True,),
    "distill.features": (1.0,),
    "consistency": ({},),
    "consistency.weight": (0.3,),
    "consistency.ramp_epochs": (0.0,),
    "consistency.threshold": (0.3,),
    "consistency.ratio": (2.0,),
    "consistency.policy": ("off", "autoaugment"),
    "consistency.cutout": (0.0,),
    "inference.tta": (["identity", "vflip"],),
    "inference.scales": ([96],),
    "inference.crop": (0.7, 7 / 8),
    "inference.average": ("logit", "rank"),
    "inference.candidates": (3,),
    "inference.expansion": ({},),
    "inference.expansion.k": (2,),
    "inference.expansion.alpha": (0.0,),
    "inference.expansion.gallery": (True,),
    "inference.rerank": ({},),
    "inference.rerank.k1": (8,),
    "inference.rerank.k2": (1,),
    "inference.rerank.weight": (0.9,),
    "pseudo.rounds": (0, 1),
    "pseudo.threshold": (0.6,),
    "pseudo.source": ("ensemble",),
    "pseudo.external": ("more",),
    "pseudo.labels": ("hard",),
    "pseudo.calibrate": (True,),
    "pseudo.cap": (1,),
    "pseudo.prior": ("keep", "quota", "weight"),
    "pseudo.pixels": (0.3,),
    "pseudo.quantile": (0.2,),
    "pseudo.weight": (0.5,),
    "pseudo.epochs": (2,),
    "pseudo.start": ("continue",),
    "stack.blenders": (["linear", "lightgbm"],),
    "stack.learning_rate": (0.3,),
    "stack.num_leaves": (8,),
    "stack.min_data_in_leaf": (5,),
    "stack.max_rounds": (3,),
    "stack.patience": (1,),
    "stack.monotone": (False,),
    "stack.calibrate": (False,),
}
ELSEWHERE = {  # keys whose effect is not looked at here, with the reason
    "names things, or chooses folds for one call": "name seed fold folds",
    "raw files, and what stage 01 reads of them: test_tables.py, test_masks.py, test_images.py": (
        "competition.slug competition.title competition.kaggle_username task.name task.metric data.raw "
        "data.train_csv data.test_csv data.sample_csv data.id data.target data.label_separator data.long "
        "data.image data.group data.train_images data.test_images data.train_masks data.mask "
        "data.mask_classes data.mask_exif data.damaged data.rle data.new_label data.max_value "
        "data.near_duplicates data.image_size "
        "data.cache_size data.fit data.squeeze data.preprocess data.storage"
    ),
    "takes what else is refused: test_folds.py": "cv.allow_rare",
    "needs a download, or a file: test_models.py": "model.pretrained model.weights",
    "the same up to rounding, by other means": (
        "train.amp train.channels_last train.compile augment.on_device model.checkpointing "
        "inference.batch_size"
    ),
    "is given finished runs: test_stack.py, test_stack_features.py": (
        "stack.name stack.members stack.features"
    ),
    "comes after all predictions": (
        "submit.source submit.name tracking.wandb tracking.project runtime.device runtime.jobs "
        "runtime.threads runtime.workers runtime.retries runtime.save_minutes kaggle.code_competition "
        "kaggle.dataset kaggle.half kaggle.hidden_images kaggle.hours kaggle.internet kaggle.kernel "
        "kaggle.licence kaggle.machine_shape kaggle.network_speedup kaggle.train_hours kaggle.train_internet "
        "kaggle.train_kernel kaggle.train_sessions"
    ),
}

BASE = {
    "model.backbone": "test_resnet",
    "data.image_size": effect_probes.SIDE,
    "train.epochs": effect_probes.EPOCHS,
    "train.batch_size": 8,
    "stack.max_rounds": 60,
}
ALL_EPOCHS = {"train.early_stopping.patience": None}
TRIPLET = {"train.margin.triplet_weight": 1.0}
NO_EMA = {"train.ema.enabled": False, **ALL_EPOCHS}
STEPS = {"train.steps": [1.5, 2.5]}
CROPS = {"inference.tta": ["top_left", "top_right", "bottom_left", "bottom_right"]}


def contexts(family: str, task: str) -> list[dict[str, Any]]:
    """The settings among which a family's keys are changed, the plain ones first."""
    classed = task in CLASSES
    found: dict[str, list[dict[str, Any] | None]] = {
        "loss": [
            *({"train.loss": name} for name in LOSSES[task]),
            TRIPLET if classed else None,
            {"train.class_weights": "effective"} if task in (*COLUMNS, "retrieval") else None,
        ],
        "optim": [
            *({"train.schedule": name} for name in ("constant", "onecycle", "exponential", "inverse_time")),
            *({"train.optimizer": name} for name in VALUES["train.optimizer"]),
            {"train.schedule": "plateau"} | ALL_EPOCHS,
            {"train.schedule": "step"} | STEPS,
            {"train.schedule": "step", "train.step_lrs": [1e-4, 1e-5]} | STEPS,
            {"train.schedule": "piecewise", "train.step_lrs": [1e-4, 1e-5]} | STEPS,
            {"train.cycles": 2},
            {"train.swa.start": 0.5, "train.swa.lr": 1e-4} | NO_EMA,
        ]
        if task == "multiclass"  # no task changes them
        else [],
        "loop": [
            {"train.ema.enabled": False},
            {"train.early_stopping.enabled": False},
            {"train.cycles": 2} | ALL_EPOCHS,
            NO_EMA,
            TRIPLET if classed else None,
        ],
        "model": [
            {"model.decoder": "fpn"} if task == "segmentation" else None,
            {"train.loss": "arcface"} if classed else {"model.drop_rate": 0.3},
            {"model.parts": "pcb", "model.stripes": 2} if task != "segmentation" else None,
        ],
        "augment": [
            {"augment.crop_scale": [1.0, 1.0]},
            {"augment.policy": "randaugment"} if task != "segmentation" else None,
            {"data.cache_size": 96},
            {"data.cache_size": 96, "augment.crop": "resized"},
            {"data.cache_size": 96, "augment.crop": "centre"},
        ],
        "mixing": [{"mixing.mixup": 0.2, **({"train.margin.triplet_weight": 0} if classed else {})}],
        "distill": [
            {"distill.teacher": "teacher"},
            {"distill.teacher": "teacher", "distill.weight": 0.0},
            {"distill.teacher": "teacher", "distill.hard": True} if task in COLUMNS else None,
        ],
        "consistency": [{"consistency.ratio": 0.5} if task != "retrieval" else None],
        "inference": [
            {"inference.tta": ["identity"]},
            {"inference.tta": ["identity"], "inference.scales": [64, 96]},
            CROPS,
            {"inference.expansion": {}, "inference.rerank": {}} if task == "retrieval" else None,
        ],
        "pseudo": [
            {"pseudo.rounds": 0},
            {"pseudo.prior": "quota"} if task in COLUMNS else None,
            {"pseudo.source": "ensemble"},
        ],
        "stack": [{"stack.blenders": ["linear"]}],
        "cv": [{"data.new_label": "new"} if task == "retrieval" else {"cv.kind": "plain"}],
    }
    return [{}, *(one for one in found[family] if one is not None)]


def keys_of(family: str) -> list[str]:
    """The keys that are changed."""
    train = {key: key.split(".")[1] for key in VALUES if key.startswith("train.")}
    losses = {key for key, name in train.items() if name in {*Losses.model_fields, "target_log"}}
    optim = {key for key, name in train.items() if name in {*Optim.model_fields, "swa"}}
    if family in ("loss", "optim"):
        return sorted(losses if family == "loss" else optim - {"train.swa.start"})
    if family == "loop":
        return sorted(set(train) - losses - optim | {"train.swa.start"})
    return [key for key in VALUES if key.split(".")[0] == family]


@cache
def built(task: str, settings: tuple) -> Config:
    """A config of dotted keys."""
    tree: dict[str, Any] = {"task": {"name": task}, "root": Path("/project")}
    if task == "segmentation":
        tree["data"] = {"rle": "rle"}
    for key, text in settings:
        *above, last = key.split(".")
        here = tree
        for part in above:
            here = here.setdefault(part, {})
        here[last] = yaml.safe_load(text)
    return Config.model_validate(tree)


def config_of(task: str, context: dict[str, Any]) -> Config:
    return built(task, tuple(sorted((key, yaml.safe_dump(v)) for key, v in (BASE | context).items())))


PROBES = effect_probes.PROBES | {
    "loss": effect_probes.loss,
    "optim": effect_probes.rates,
    "loop": effect_probes.loop,
}
FAMILIES = [
    (family, task) for family in PROBES for task in TASKS if family != "optim" or task == "multiclass"
]


@pytest.mark.parametrize(("family", "task"), FAMILIES)
def test_a_key_changes_what_is_done_or_is_refused_or_enters_no_fingerprint(family, task):
    wrong, done = [], {}

    def seen(config: Config) -> str:
        if id(config) not in done:  # `built` keeps them all
            done[id(config)] = effect_probes.signature(PROBES[family](config))
        return done[id(config)]

    for context in contexts(family, task):
        base = config_of(task, context)
        for key in keys_of(family):
            for value in VALUES[key]:
                where = f"{task}, {context}: {key}={value}"
                try:
                    changed = config_of(task, context | {key: value})
                    check_known_names(changed)
                    seen(changed)
                except (ValidationError, UserError) as error:
                    message = str(error)
                    if key not in message and key.rpartition(".")[0] not in message:
                        wrong.append(f"{where} is refused without its name: {message}")
                    continue
                if value_of(base, key) == value_of(changed, key) or not is_there(base, key):
                    continue  # the second is its section's effect
                section, lacks = key.split(".")[0], without_effect(changed).get(key)
                null = NULL_IS[key](changed) if key in NULL_IS else None
                alike = lacks is not None or {value_of(base, key), value_of(changed, key)} == {None, null}
                if (seen(base) == seen(changed)) != alike:
                    wrong.append(f"{where} {'does something' if alike else 'does nothing'}")
                if (effective(base, section) == effective(changed, section)) != alike:
                    wrong.append(f"{where} is {'in' if alike else 'not in'} the fingerprint")
    assert wrong == []


def test_every_key_is_changed_here_or_listed_with_a_reason():
    listed = {key: why for why, keys in ELSEWHERE.items() for key in keys.split()}
    assert VALUES.keys() & listed.keys() == set()
    assert leaves() - VALUES.keys() - listed.keys() == set(), "add these to VALUES, or to ELSEWHERE"
    assert (VALUES.keys() | listed.keys()) - leaves() == set(), "these are no keys of the config any more"
    assert {key for need in NEEDS for key in (*need.keys, *need.of)} | {*HOW, *NULL_IS} <= leaves()


# --- refused, or ignored ------------------------------------------------------------------------------------


def load(folder: Path, text: str, *overrides: str, base: str = "") -> Config:
    write_config(folder, "below", base)
    return load_config(write_config(folder, "experiment", f"base: below\n{text}"), list(overrides))


@pytest.mark.parametrize("task", TASKS)
def test_a_key_that_is_set_and_has_no_effect_is_refused_by_its_name(tmp_path, task):
    text = (
        f"task: {{name: {task}}}\ndata: {{rle: rle}}\n"
        if task == "segmentation"
        else f"task: {{name: {task}}}"
    )
    plain = load(tmp_path, text)
    assert ignored(plain) == {}
    lacking = {key: need for key, need in without_effect(plain).items() if need.refused and key in VALUES}
    assert len(lacking) > 10
    for key in lacking:
        word = f"{key}={yaml.safe_dump(VALUES[key][-1], default_flow_style=True).splitlines()[0]}"
        with pytest.raises(UserError) as caught:
            load(tmp_path, text, word)
        assert key in str(caught.value)


def test_what_a_later_file_or_the_command_line_takes_the_effect_of_is_ignored(tmp_path):
    smooth = "train: {label_smoothing: 0.3}"
    for config in (
        load(tmp_path, "train: {loss: focal}", base=smooth),
        load(tmp_path, smooth, "train.loss=focal"),
    ):
        assert list(ignored(config)) == ["train.label_smoothing"]
        assert effective(config, "train") == effective(load(tmp_path, "", "train.loss=focal"), "train")
        again = write_config(tmp_path, "again", yaml.safe_dump(config.settings()))  # as a run's config.yaml
        assert load_config(again).train == load(tmp_path, "", "train.loss=focal").train
    for text, words, base in (
        ("", ("train.loss=focal", "train.label_smoothing=0.3"), ""),
        ("train: {loss: focal, label_smoothing: 0.3}", (), ""),
        (smooth, (), "train: {loss: focal}"),
    ):
        with pytest.raises(
            NoEffect, match=r"`train.label_smoothing` is 0.3 and has no effect: it is for train"
        ):
            load(tmp_path, text, *words, base=base)


def test_a_default_and_a_null_are_never_refused(tmp_path):
    config = load(tmp_path, "train: {loss: focal, label_smoothing: 0.1, margin: {size: null}}")
    assert ignored(config) == {}
    load(tmp_path, "train: {early_stopping: {enabled: false, patience: null}}")
    load(tmp_path, "task: {name: regression}\npseudo: {threshold: 0.95}")  # the template asks for it anyway


def test_a_run_is_fresh_whatever_value_an_ignored_key_has(prepared):
    def fingerprint(*words: str) -> str:
        return train_step(
            run_of(load_config(prepared / "configs" / "baseline.yaml", list(words))), 0
        ).fingerprint

    config = prepared / "configs" / "baseline.yaml"
    plain = fingerprint("train.loss=focal")
    config.write_text(config.read_text().replace("train:", "train:\n  label_smoothing: 0.3"))
    assert fingerprint("train.loss=focal") == plain
    assert fingerprint() != plain


@pytest.mark.parametrize("task", TASKS)
def test_no_two_tricks_of_the_list_for_ablations_are_one_training(tmp_path, task, capsys):
    text = f"task: {{name: {task}}}\n" + ("data: {rle: rle}\n" if task == "segmentation" else "")
    trials = Trials(str(write_config(tmp_path, "experiment", text)), [], "ablate")
    listed = read_changes("", ROOT / "configs" / "ablate.yaml")
    kept = trials.check(listed, leave_out=True)
    marks = {trials.mark(trials.configured(change, 0)) for change in kept}
    base = load_config(trials.path, ["seed=0"])
    assert len(marks | {trials.mark(base)}) == len(kept) + 1
    smoothed = LOSSES[task][0] in ("cross_entropy", "bce")
    assert [c.name for c in trials.left_out] == ([] if smoothed else ["train.label_smoothing=0"])
    assert ("train.label_smoothing" in capsys.readouterr().out) != smoothed
    assert set(kept) | set(trials.left_out) == set(listed)
    already = Trials(trials.path, [kept[0].name], "ablate")  # a base that has it
    assert kept[0] not in already.check(listed, leave_out=True)
    with pytest.raises(NoEffect, match="has that already"):
        already.check([kept[0]])
