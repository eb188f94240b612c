"""Any tricks go together: random combinations of all switches are refused with a sentence, or train.

To add a switch, add a line to `SWITCHES`; a key of the config that is neither there nor in `NO_TRICK` fails
the first test. A section that may be null is a switch with the value `{}`, its keys are drawn where it is on.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from competitions import TASKS, prepare_competition
from safetensors.torch import save_file

from src.artifacts import digest, write_json
from src.cli import check_known_names
from src.config import Config, Section, UserError
from src.config.losses import LOSSES
from src.configfile import load_config, section_of
from src.data.loaders import load_fold, to_tensor
from src.inference.fold_tables import TABLES_BY_KIND, FoldPredictor
from src.models.weights import save_model
from src.tasks import create_task
from src.training.trainer import Trainer

DRAWS = 40  # trained combinations of each task: more than 200 in all
ROOM = ("train.epochs=4", "train.early_stopping.patience=null")  # for cycles, steps, soups, averages
CPU = torch.device("cpu")
EVERYWHERE = tuple(TASKS)


@dataclass(frozen=True, eq=False)
class Switch:
    """A key, the values that are drawn for it, and the tasks where it does something."""

    key: str
    values: tuple[Any, ...]
    tasks: tuple[str, ...] = EVERYWHERE


MAPS, RANKS, NUMBER = ("segmentation",), ("retrieval",), ("regression",)
COLUMNS = ("binary", "multilabel", "multiclass")
CLASSES = ("multiclass", "retrieval")  # one of several a row
LABELS = ("binary", "multilabel")
ONE_ANSWER = tuple(task for task in EVERYWHERE if task not in MAPS)  # an image
PROBABLE = tuple(task for task in EVERYWHERE if task not in RANKS)  # or a number
CROPS = ["top_left", "top_right", "bottom_left", "bottom_right"]
SCHEDULES = ("cosine", "constant", "step", "plateau", "onecycle", "exponential", "inverse_time", "piecewise")

SWITCHES = (
    # the network
    Switch("model.backbone", ("test_resnet", "test_resnet", "test_efficientnet", "test_vit3")),
    Switch("model.weights", (None, "backbone.safetensors")),  # of the test_resnet
    Switch("model.normalize", ("dataset", "backbone")),
    Switch("model.drop_rate", (0.0, 0.3)),
    Switch("model.drop_path_rate", (0.0, 0.2)),
    Switch("model.pooling", (None, "avg", "max", "dual", "gem"), ONE_ANSWER),
    Switch("model.neck", (None, "bnneck"), CLASSES),
    Switch("model.dropout_samples", (None, 2), ONE_ANSWER),
    Switch("model.ibn", (None, "a", "b")),
    Switch("model.parts", (None, "pcb", "mgn"), ONE_ANSWER),
    Switch("model.stripes", (None, 2), ONE_ANSWER),
    Switch("model.subcenters", (None, 2), CLASSES),
    Switch("model.checkpointing", (False, True)),
    Switch("model.decoder", ("unet", "fpn"), MAPS),
    Switch("model.embedding", (None, 16), RANKS),
    # pixels
    Switch("augment.hflip", (0.0, 0.5)),
    Switch("augment.vflip", (0.0, 0.5)),
    Switch("augment.d4", (None, 1.0)),
    Switch("augment.crop", (None, "resized", "random", "centre")),
    Switch("augment.crop_scale", ([1.0, 1.0], [0.5, 1.0])),
    Switch("augment.crop_ratio", ([0.8, 1.25], [1.0, 1.0])),
    Switch("augment.rotate", (0.0, 30.0)),
    Switch("augment.shift", (0.0, 0.1)),
    Switch("augment.zoom", (0.0, 0.2)),
    Switch("augment.brightness", (0.0, 0.3)),
    Switch("augment.contrast", (0.0, 0.3)),
    Switch("augment.hue", (None, 0.1)),
    Switch("augment.saturation", (None, 0.3)),
    Switch("augment.gamma", (None, 0.2)),
    Switch("augment.blur", (None, 0.5)),
    Switch("augment.noise", (None, 0.5)),
    Switch("augment.compression", (None, 0.5)),
    Switch("augment.cutout", (0.0, 1.0)),
    Switch("augment.erasing", (None, 1.0)),
    Switch("augment.policy", (None, "autoaugment", "randaugment", "trivialaugment"), ONE_ANSWER),
    Switch("augment.operations", (None, 3), ONE_ANSWER),
    Switch("augment.magnitude", (None, 15), ONE_ANSWER),
    Switch("augment.scales", (None, [1.0, 2.0])),
    Switch("augment.on_device", (None, True)),
    Switch("mixing.mixup", (None, 0.2)),
    Switch("mixing.cutmix", (None, 1.0)),
    Switch("mixing.share", (1.0, 0.5)),
    Switch("mixing.off_epochs", (0, 1)),
    # losses
    Switch("train.loss", (None, *LOSSES["multiclass"]), ("multiclass",)),
    Switch("train.loss", (None, *LOSSES["binary"]), ("binary",)),
    Switch("train.loss", (None, *LOSSES["multilabel"]), ("multilabel",)),
    Switch("train.loss", (None, *LOSSES["regression"]), NUMBER),
    Switch("train.loss", (None, *LOSSES["segmentation"]), MAPS),
    Switch("train.loss", (None, *LOSSES["retrieval"]), RANKS),
    Switch("train.label_smoothing", (0.0, 0.1), (*COLUMNS, *RANKS)),
    Switch("train.focal.gamma", (2.0, 0.0, 1.0), (*COLUMNS, *MAPS)),
    Switch("train.focal.alpha", (None, 0.25), ("binary", "multilabel", "segmentation")),
    Switch("train.asymmetric.gamma_positive", (0.0, 1.0), LABELS),
    Switch("train.asymmetric.gamma_negative", (4.0, 2.0), LABELS),
    Switch("train.asymmetric.shift", (0.05, 0.0), LABELS),
    Switch("train.symmetric.alpha", (0.1, 6.0), ("multiclass",)),
    Switch("train.symmetric.beta", (1.0, 0.1), ("multiclass",)),
    Switch("train.generalized_q", (0.7, 0.3), ("multiclass",)),
    Switch("train.fbeta", (1.0, 2.0), (*LABELS, *MAPS)),
    Switch("train.huber_delta", (1.0, 0.1), NUMBER),
    Switch("train.dice_weight", (0.0, 0.5, 1.0), MAPS),
    Switch("train.lovasz_weight", (None, 0.5), ("multilabel", *MAPS)),
    Switch("train.center_weight", (None, 0.003), CLASSES),
    Switch("train.margin.scale", (None, 16.0), CLASSES),
    Switch("train.margin.size", (None, 0.2, 1.2), CLASSES),
    Switch("train.margin.rarest", (None, 0.4, 1.5), CLASSES),
    Switch("train.margin.triplet_weight", (None, 0.0, 1.0), CLASSES),
    Switch("train.margin.triplet", ("soft", 0.3), CLASSES),
    Switch("train.class_weights", (None, "inverse", "effective"), (*COLUMNS, *RANKS)),
    Switch("train.effective_beta", (0.999, 0.9), (*COLUMNS, *RANKS)),
    Switch("train.top_share", (None, 0.5)),
    Switch("train.target_log", (False, True), NUMBER),
    # optimisation
    Switch("train.optimizer", ("adam", "adamw", "sgd", "lion", "nadam", "radam")),
    Switch("train.momentum", (None, 0.8)),
    Switch("train.lr", (3e-4, 1e-3)),
    Switch("train.weight_decay", (0.0, 0.05)),
    Switch("train.clip_grad", (None, 1.0)),
    Switch("train.schedule", SCHEDULES),
    Switch("train.warmup_epochs", (0.0, 0.5, 1.0)),
    Switch("train.hold_epochs", (None, 0.5)),
    Switch("train.min_lr", (0.0, 1e-6, 2e-4)),
    Switch("train.cycles", (None, 2)),
    Switch("train.cycle_decay", (None, 0.5)),
    Switch("train.steps", (None, [1.5, 2.5])),
    Switch("train.step_lrs", (None, [1e-4, 1e-5])),
    Switch("train.lr_decay", (None, 0.5)),
    Switch("train.plateau_patience", (None, 1)),
    Switch("train.backbone_lr", (None, 0.1)),
    Switch("train.layer_decay", (None, 0.75)),
    Switch("train.freeze_epochs", (None, 1)),
    Switch("train.freeze_stages", (None, 1, 2)),
    Switch("train.freeze_bn", (None, True)),
    # the loop
    Switch("train.epochs", (4, 6)),
    Switch("train.batch_size", (4, 8)),
    Switch("train.accumulate", (1, 2)),
    Switch("train.sampling", (None, "balanced", "sqrt"), COLUMNS),
    Switch("train.images_per_class", (2, 4), CLASSES),
    Switch("train.amp", ("auto", "off", "bf16")),
    Switch("train.channels_last", (True, False)),
    Switch("train.early_stopping.enabled", (True, False)),
    Switch("train.early_stopping.patience", (1, 5, None)),
    Switch("train.ema.enabled", (True, False)),
    Switch("train.ema.decay", (0.0, 0.999)),
    Switch("train.swa.start", (None, 0.0, 0.75)),
    Switch("train.swa.lr", (None, 1e-4)),
    Switch("train.swa.anneal_epochs", (None, 1)),
    Switch("train.snapshots", (None, 2)),
    Switch("train.soup", (None, 2)),
    Switch("distill.teacher", (None, "teacher", ["teacher", "other"])),
    Switch("distill.weight", (0.0, 0.5, 1.0)),
    Switch("distill.temperature", (2.0, 1.0), (*COLUMNS, *MAPS)),
    Switch("distill.hard", (None, True), (*COLUMNS, *MAPS)),
    Switch("distill.features", (None, 1.0, 25.0)),
    Switch("consistency", ({},), PROBABLE),
    Switch("consistency.weight", (1.0, 0.3), PROBABLE),
    Switch("consistency.ramp_epochs", (None, 0.0, 2.0), PROBABLE),
    Switch("consistency.threshold", (0.95, 0.0), (*COLUMNS, *MAPS)),
    Switch("consistency.ratio", (1.0, 0.5, 1.5), PROBABLE),
    Switch("consistency.policy", ("auto", "off"), MAPS),
    Switch(
        "consistency.policy", ("off", "randaugment", "autoaugment", "trivialaugment"), (*COLUMNS, *NUMBER)
    ),
    Switch("consistency.cutout", (1.0, 0.0), PROBABLE),
    # predictions
    Switch("inference.tta", (["identity"], ["identity", "hflip"], ["rot90", *CROPS], ["centre"])),
    Switch("inference.scales", (None, [64], [64, 128])),
    Switch("inference.crop", (None, 0.75)),
    Switch("inference.average", ("probability", "logit", "rank"), (*COLUMNS, *MAPS)),
    Switch("inference.batch_size", (64, 5)),
    Switch("inference.candidates", (50, 3), RANKS),
    Switch("inference.expansion", ({},), RANKS),
    Switch("inference.expansion.k", (5, 2), RANKS),
    Switch("inference.expansion.alpha", (3.0, 0.0), RANKS),
    Switch("inference.expansion.gallery", (False, True), RANKS),
    Switch("inference.rerank", ({},), RANKS),
    Switch("inference.rerank.k1", (20, 8), RANKS),
    Switch("inference.rerank.k2", (6, 1), RANKS),
    Switch("inference.rerank.weight", (0.3, 1.0), RANKS),
)

WEIGHTS = {"model.weights": "backbone.safetensors", "model.backbone": "test_resnet"}
CYCLES = {"train.schedule": "cosine", "train.cycles": 2}
STEPS = {"train.steps": [1.5, 2.5]}
COMPANIONS = {  # what a value is nothing without
    ("model.weights", "backbone.safetensors"): WEIGHTS,
    ("model.dropout_samples", 2): {"model.drop_rate": 0.3},
    ("model.ibn", "a"): {"model.backbone": "test_resnet"},
    ("model.ibn", "b"): {"model.backbone": "test_resnet"},
    ("model.parts", "mgn"): {"model.backbone": "test_resnet"},
    ("model.parts", "pcb"): {"model.stripes": 2},  # of 96 pixels; the paper's 6 want 192
    ("model.stripes", 2): {"model.parts": "pcb"},
    ("model.subcenters", 2): {"train.loss": "arcface"},
    ("augment.operations", 3): {"augment.policy": "randaugment"},
    ("augment.magnitude", 15): {"augment.policy": "randaugment"},
    ("augment.crop_scale", "[0.5, 1.0]"): {"augment.crop": "resized"},
    ("augment.crop_scale", "[1.0, 1.0]"): {"augment.crop": "resized"},
    ("augment.crop_ratio", "[1.0, 1.0]"): {"augment.crop": "resized"},
    ("mixing.share", 0.5): {"mixing.mixup": 0.2},
    ("mixing.off_epochs", 1): {"mixing.mixup": 0.2},
    ("train.focal.gamma", 0.0): {"train.loss": "focal"},
    ("train.focal.gamma", 1.0): {"train.loss": "focal"},
    ("train.focal.alpha", 0.25): {"train.loss": "focal"},
    ("train.asymmetric.gamma_positive", 1.0): {"train.loss": "asymmetric"},
    ("train.asymmetric.gamma_negative", 2.0): {"train.loss": "asymmetric"},
    ("train.asymmetric.shift", 0.0): {"train.loss": "asymmetric"},
    ("train.symmetric.alpha", 6.0): {"train.loss": "symmetric_cross_entropy"},
    ("train.symmetric.beta", 0.1): {"train.loss": "symmetric_cross_entropy"},
    ("train.generalized_q", 0.3): {"train.loss": "generalized_cross_entropy"},
    ("train.fbeta", 2.0): {"train.loss": "fbeta"},
    ("train.huber_delta", 0.1): {"train.loss": "huber"},
    ("train.margin.scale", 16.0): {"train.loss": "arcface"},
    ("train.margin.size", 0.2): {"train.loss": "arcface"},
    ("train.margin.rarest", 0.4): {"train.loss": "arcface"},
    ("train.margin.size", 1.2): {"train.loss": "sphereface"},
    ("train.margin.rarest", 1.5): {"train.loss": "sphereface"},
    ("train.margin.triplet", 0.3): {"train.margin.triplet_weight": 1.0},
    ("train.images_per_class", 2): {"train.margin.triplet_weight": 1.0},
    ("train.effective_beta", 0.9): {"train.class_weights": "effective"},
    ("train.momentum", 0.8): {"train.optimizer": "sgd"},
    ("train.schedule", "step"): STEPS,
    ("train.schedule", "piecewise"): STEPS | {"train.step_lrs": [1e-4, 1e-5]},
    ("train.cycles", 2): CYCLES,
    ("train.cycle_decay", 0.5): CYCLES,
    ("train.steps", "[1.5, 2.5]"): {"train.schedule": "step"},
    ("train.step_lrs", "[0.0001, 1e-05]"): STEPS | {"train.schedule": "piecewise"},
    ("train.lr_decay", 0.5): {"train.schedule": "exponential"},
    ("train.plateau_patience", 1): {"train.schedule": "plateau"},
    ("train.freeze_epochs", 1): WEIGHTS,
    ("train.freeze_stages", 1): WEIGHTS,
    ("train.freeze_stages", 2): WEIGHTS,
    ("train.freeze_bn", True): WEIGHTS,
    ("train.swa.start", 0.0): {"train.ema.enabled": False},
    ("train.swa.start", 0.75): {"train.ema.enabled": False},
    ("train.swa.lr", 1e-4): {"train.swa.start": 0.75, "train.ema.enabled": False},
    ("train.swa.anneal_epochs", 1): {
        "train.swa.start": 0.75,
        "train.swa.lr": 1e-4,
        "train.ema.enabled": False,
    },
    ("train.snapshots", 2): CYCLES,
    ("distill.weight", 0.0): {"distill.teacher": "teacher"},
    ("distill.weight", 1.0): {"distill.teacher": "teacher"},
    ("distill.temperature", 1.0): {"distill.teacher": "teacher"},
    ("distill.hard", True): {"distill.teacher": "teacher"},
    ("distill.features", 1.0): {"distill.teacher": "teacher"},
    ("distill.features", 25.0): {"distill.teacher": "teacher"},
    ("inference.average", "logit"): {"inference.tta": ["identity", "hflip"]},
    ("inference.crop", 0.75): {"inference.tta": ["rot90", *CROPS]},
}

NO_TRICK = {  # keys that are drawn nowhere, with the reason
    "says what the competition is; stage 01 and its tests": (
        "competition.slug competition.title competition.kaggle_username task.name task.metric data.raw "
        "data.train_csv data.test_csv data.sample_csv data.id data.target data.label_separator data.long "
        "data.image data.group data.train_images data.test_images data.train_masks data.mask "
        "data.mask_classes data.mask_exif data.damaged data.rle data.new_label data.max_value "
        "data.near_duplicates"
    ),
    "decides the cache, which is made once here": (
        "data.image_size data.cache_size data.fit data.squeeze data.preprocess data.storage"
    ),
    "decides the folds, which are made once here": (
        "cv.kind cv.n_folds cv.seed cv.stop_parts cv.allow_rare cv.new_share"
    ),
    "needs a download": "model.pretrained",
    "takes a minute each; tests/project/test_devices.py": "train.compile",
    "names things": "name seed fold folds",
    "stage 04: which test rows become training rows; tests/project/test_pseudo.py": (
        "pseudo.rounds pseudo.threshold pseudo.labels pseudo.pixels pseudo.quantile pseudo.weight "
        "pseudo.epochs pseudo.calibrate pseudo.cap pseudo.prior pseudo.source "
        "pseudo.start pseudo.external"
    ),
    "stage 05, of finished runs; tests/project/test_stack.py": (
        "stack.name stack.members stack.learning_rate stack.num_leaves stack.min_data_in_leaf "
        "stack.max_rounds stack.patience stack.blenders stack.monotone stack.features stack.calibrate"
    ),
    "stage 06; tests/project/test_submission.py": "submit.source submit.name",
    "where it goes; tests/project/test_kaggle_push.py and its like": (
        "kaggle.code_competition kaggle.dataset kaggle.half kaggle.hidden_images kaggle.hours "
        "kaggle.internet kaggle.kernel kaggle.licence kaggle.machine_shape kaggle.train_hours "
        "kaggle.network_speedup "
        "kaggle.train_internet kaggle.train_kernel kaggle.train_sessions"
    ),
    "how, not what": (
        "tracking.wandb tracking.project runtime.device runtime.jobs runtime.threads runtime.workers "
        "runtime.retries runtime.save_minutes"
    ),
}


def leaves(section: type[Section] = Config, prefix: str = "") -> set[str]:
    """Every key that holds a value, and every section that may be null."""
    found = set()
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if field.exclude:
            continue
        if inner is None or field.annotation is not inner:
            found.add(prefix + name)
        if inner is not None:
            found |= leaves(inner, f"{prefix}{name}.")
    return found


def test_every_key_of_the_config_is_drawn_or_listed_as_no_trick():
    listed = {key: reason for reason, keys in NO_TRICK.items() for key in keys.split()}
    drawn = {switch.key for switch in SWITCHES}
    assert drawn & listed.keys() == set()
    assert leaves() - drawn - listed.keys() == set(), "add these to SWITCHES, or to NO_TRICK with a reason"
    assert (drawn | listed.keys()) - leaves() == set(), "these are no keys of the config any more"


def test_a_switch_is_drawn_with_a_value_that_is_not_its_default():
    defaults = Config().model_dump(mode="json")
    for switch in SWITCHES:
        assert any(drawn != at(defaults, switch.key) for drawn in switch.values), switch.key


def at(tree: dict[str, Any], key: str) -> Any:
    """The value there; None below a section that is null."""
    value: Any = tree
    for part in key.split("."):
        value = value[part] if value is not None else None
    return value


# --- drawing ------------------------------------------------------------------------------------------------


class Lots:
    """Draws combinations for a task. A switch's values that are not the default lie in a deck, shuffled when
    it is empty: none is out of luck for long."""

    def __init__(self, task: str, defaults: dict[str, Any]):
        self.here = {switch.key: switch for switch in SWITCHES if task in switch.tasks}
        self.other = {
            switch: [value for value in switch.values if value != at(defaults, switch.key)]
            for switch in self.here.values()
        }
        self.decks: dict[Switch, list[Any]] = {switch: [] for switch in self.other}
        self.rng = np.random.default_rng(EVERYWHERE.index(task))

    def draw(self) -> dict[Switch, Any]:
        """Values for a random quarter of the switches, with their companions; none for keys of a section that
        is null."""
        drawn: dict[Switch, Any] = {}
        for key, switch in self.here.items():
            above = self.here.get(key.rpartition(".")[0])
            if self.rng.random() < 1 / 4 and (above is None or above in drawn):
                drawn[switch] = self.next(switch)
        for switch, value in list(drawn.items()):
            needed = self.companions(switch, value)
            taken = any(drawn.get(other, wanted) != wanted for other, wanted in needed.items())
            if taken and self.rng.random() < 1 / 2:
                self.put_back(switch, drawn.pop(switch))
            else:
                drawn |= needed
        return drawn

    def companions(self, switch: Switch, value: Any) -> dict[Switch, Any]:
        text = str(value) if isinstance(value, list | dict) else value
        needed = COMPANIONS.get((switch.key, text), {})
        above = self.here.get(switch.key.rpartition(".")[0])
        return {self.here[key]: wanted for key, wanted in needed.items()} | ({above: {}} if above else {})

    def all(self) -> list[tuple[Switch, Any]]:
        return [(switch, value) for switch, values in self.other.items() for value in values]

    def next(self, switch: Switch) -> Any:
        deck, values = self.decks[switch], self.other[switch]
        if not deck:
            deck += [values[i] for i in self.rng.permutation(len(values))]
        return deck.pop()

    def put_back(self, switch: Switch, value: Any) -> None:
        """For another time."""
        self.decks[switch].insert(0, value)

    def leave_out(self, drawn: dict[Switch, Any], named: list[Switch]) -> None:
        """Put back one of these switches, with what lies below it."""
        out = named[self.rng.integers(len(named))]
        for switch in [s for s in drawn if s is out or s.key.startswith(f"{out.key}.")]:
            self.put_back(switch, drawn.pop(switch))


def words(drawn: dict[Switch, Any]) -> list[str]:
    """As they would stand on the command line, after what all of them start from."""
    return [*ROOM, *(f"{switch.key}={json.dumps(value)}" for switch, value in drawn.items())]


# --- training -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=EVERYWHERE)
def made(request, tmp_path_factory) -> tuple[str, Path]:
    """A task and its competition, with two finished teachers for fold 0."""
    rows = 80 if request.param == "multiclass" else 48  # ten classes want more
    path = prepare_competition(
        tmp_path_factory.mktemp(request.param), request.param, 96, rows, n_test=8, cache_size=104
    )
    config = load_config(path)
    backbone = timm.create_model("test_resnet", pretrained=False)
    save_file(backbone.state_dict(), config.root / "backbone.safetensors")
    task = create_task(config)
    data = load_fold(config, task, 0)
    trainer = Trainer(config, task, data, data.train, 0, CPU)
    for name in ("teacher", "other"):
        folder = config.root / "runs" / name / "fold0"
        save_model(folder / "model.safetensors", trainer.architecture, trainer.model.state_dict())
        recipe = {"inputs": {"folds": digest(config.root / "data" / "folds.csv")}}
        write_json(folder / "train.stamp.json", {"fingerprint": "", "outputs": {}, "recipe": recipe})
    return request.param, path


def two_steps(config: Config) -> tuple[Trainer, dict[str, Any], list[dict[str, torch.Tensor | None]]]:
    """Fold 0 of a config trained for two optimiser steps: the trainer, the epoch's row, each step's
    gradients."""
    task = create_task(config)
    data = load_fold(config, task, 0)
    trainer = Trainer(config, task, data, data.train, 0, CPU)
    batches, step, seen = trainer.sampler.batches, trainer.precision.step, []
    trainer.sampler.batches = lambda: batches()[: 2 * config.train.accumulate]

    def watched(optimizer, model, clip_grad):
        seen.append({n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()})
        return step(optimizer, model, clip_grad)

    trainer.precision.step = watched
    return trainer, trainer.train_epoch(0, lambda *_, **__: None), seen


def reached(trainer: Trainer) -> set[str]:
    """Names of the parameters that may move and that any output of the network depends on."""
    images = to_tensor(trainer.data.store.look(np.arange(4)))
    output = trainer.model.train()(images)
    values = [getattr(output, field.name) for field in dataclasses.fields(output)]
    flat = [x for v in values for x in (v if isinstance(v, list | tuple) else [v]) if torch.is_tensor(x)]
    moving = [(n, p) for n, p in trainer.model.named_parameters() if p.requires_grad]
    total = sum(x.float().sum() for x in flat if x.requires_grad)
    grads = torch.autograd.grad(total, [p for _, p in moving], allow_unused=True)
    return {name for (name, _), grad in zip(moving, grads, strict=True) if grad is not None}


def check_trained(config: Config) -> None:
    """Two steps, with a finite loss and a finite gradient wherever one is due; then a fold's answers."""
    trainer, row, steps = two_steps(config)
    assert np.isfinite(row["train_loss"])
    assert 1 <= len(steps) <= 2
    due = reached(trainer)
    for grads in steps:
        missing = sorted(name for name in due if grads[name] is None)
        assert not missing, f"no gradient reached {missing[:5]}"
        wild = sorted(name for name, g in grads.items() if g is not None and not g.isfinite().all())
        assert not wild, f"the gradient of {wild[:5]} is not finite"
    # a teacher alone (distill.weight=1) may agree with its copy to the last bit, all others push
    assert config.distill.teacher or any(g.abs().sum() > 0 for g in steps[-1].values() if g is not None)
    task, data, model = trainer.task, trainer.data, trainer.average.model
    for table in TABLES_BY_KIND[task.kind](
        FoldPredictor(config, task, data, model, CPU, lambda rows: None)
    ).values():
        said = task.read(table, data.outputs)
        assert len(said) == len(table)
        if task.kind == "numbers":
            assert np.isfinite(said).all()
        elif task.kind == "rankings":
            assert all(np.isfinite(row).all() and np.all(np.diff(row) <= 0) for row in said.scores)


def test_random_combinations_train_or_are_refused_with_a_sentence(made):
    """What is refused is told by the keys to change: with one of these left out, the rest is tried again.
    A value that luck left out is tried with its companions alone."""
    task, path = made
    lots = Lots(task, load_config(path).model_dump(mode="json"))
    refused, seen = Counter(), set()
    for _ in range(DRAWS):
        drawn = lots.draw()
        while (message := complaint(task, path, drawn)) is not None:
            named = [switch for switch in drawn if names(message, switch.key)]
            assert is_a_sentence(message), message
            assert named, f"{message!r} names nothing that was set: {' '.join(words(drawn))}"
            lots.leave_out(drawn, named)
            refused[message] += 1
        seen |= set(words(drawn))
    assert refused, "no combination was refused: the draws are too tame"
    for switch, value in lots.all():
        drawn = {switch: value} | lots.companions(switch, value)
        if words({switch: value})[-1] not in seen and (said := complaint(task, path, drawn)) is not None:
            assert (switch.key, value) in NEVER.get(task, ()), f"{words({switch: value})[-1]}: {said}"
            assert is_a_sentence(said), said


def complaint(task: str, path: Path, drawn: dict[Switch, Any]) -> str | None:
    """Why a combination is refused; None where it trained."""
    try:
        config = load_config(path, words(drawn))
        check_known_names(config)
        check_trained(config)
    except UserError as error:
        return str(error).removeprefix(str(path)).removeprefix(" with the command line: ")
    except Exception as error:
        raise AssertionError(f"{task} does not take {' '.join(words(drawn))}") from error
    return None


def names(message: str, key: str) -> bool:
    """Whether it says the key, or the section of `train` and the like that the key is in."""
    section = key.rpartition(".")[0]
    said = [key, section] if "." in section else [key]
    return any(re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", message) for name in said)


NEVER = {  # what a task refuses, or would not do with the rest of its baseline
    "multiclass": [("inference.average", "rank")],
    "segmentation": [
        ("inference.average", "rank"),
        ("inference.tta", ["centre"]),
        ("model.backbone", "test_vit3"),  # tied to one size, and masks are predicted at the cache's
    ],
    "retrieval": [
        ("train.label_smoothing", 0.0),  # its usual loss has a margin
        ("distill.weight", 0.0),
        ("mixing.share", 0.5),
        ("mixing.off_epochs", 1),
        ("mixing.mixup", 0.2),  # a triplet
        ("mixing.cutmix", 1.0),
        ("distill.teacher", ["teacher", "other"]),  # embeddings side by side are longer than the pupil's
    ],
}


def is_a_sentence(message: str) -> bool:
    """One line, of more words than a key."""
    return "\n" not in message and len(message.split()) >= 4
