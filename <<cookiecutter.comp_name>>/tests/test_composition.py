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
import torch
from competitions import TASKS, prepare_competition

from src.artifacts import digest, write_json
from src.cli import check_names
from src.config import Config, Section, UserError
from src.configfile import load_config, section_of
from src.data.loaders import load_fold
from src.inference.answers import KINDS, Asked
from src.models.weights import save_model
from src.tasks import create_task
from src.training.fit import Trainer

DRAWS = 34  # trained combinations of each task: more than 200 in all
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

SWITCHES = (
    # the network
    Switch("model.backbone", ("test_resnet", "test_resnet", "test_efficientnet", "test_vit3")),
    Switch("model.drop_rate", (0.0, 0.3)),
    Switch("model.drop_path_rate", (0.0, 0.2)),
    Switch("model.decoder", ("unet", "fpn"), MAPS),
    Switch("model.embedding", (None, 16), RANKS),
    # pixels
    Switch("augment.hflip", (0.0, 0.5)),
    Switch("augment.vflip", (0.0, 0.5)),
    Switch("augment.crop_scale", ([1.0, 1.0], [0.5, 1.0])),
    Switch("augment.crop_ratio", ([0.8, 1.25], [1.0, 1.0])),
    Switch("augment.rotate", (0.0, 30.0)),
    Switch("augment.shift", (0.0, 0.1)),
    Switch("augment.zoom", (0.0, 0.2)),
    Switch("augment.brightness", (0.0, 0.3)),
    Switch("augment.contrast", (0.0, 0.3)),
    Switch("augment.cutout", (0.0, 1.0)),
    # losses
    Switch("train.loss", (None, "arcface", "arcface_triplet"), RANKS),
    Switch("train.loss", (None, "bce_dice", "ce_dice"), MAPS),
    Switch("train.loss", (None, "mse", "mae", "huber"), NUMBER),
    Switch("train.loss", (None, "cross_entropy", "bce"), COLUMNS),
    Switch("train.label_smoothing", (0.0, 0.1)),
    Switch("train.huber_delta", (1.0, 0.1), NUMBER),
    Switch("train.dice_weight", (0.0, 0.5, 1.0), MAPS),
    Switch("train.margin.scale", (None, 16.0), RANKS),
    Switch("train.margin.angle", (0.0, 0.3), RANKS),
    Switch("train.margin.triplet_weight", (0.0, 1.0), RANKS),
    Switch("train.margin.triplet", ("soft", 0.3), RANKS),
    Switch("train.target_log", (False, True), NUMBER),
    # optimisation
    Switch("train.optimizer", ("adam", "adamw", "sgd", "lion", "nadam", "radam")),
    Switch("train.lr", (3e-4, 1e-3)),
    Switch("train.weight_decay", (0.0, 0.05)),
    Switch("train.schedule", ("cosine", "constant")),
    Switch("train.warmup_epochs", (0.0, 0.5, 2.0)),
    Switch("train.min_lr", (0.0, 1e-6, 5e-4)),
    Switch("train.clip_grad", (None, 1.0)),
    # the loop
    Switch("train.epochs", (1, 3)),
    Switch("train.batch_size", (4, 8)),
    Switch("train.accumulate", (1, 2)),
    Switch("train.images_per_class", (2, 4), RANKS),
    Switch("train.amp", ("auto", "off", "bf16")),
    Switch("train.channels_last", (True, False)),
    Switch("train.early_stopping.enabled", (True, False)),
    Switch("train.early_stopping.patience", (1, 5)),
    Switch("train.ema.enabled", (True, False)),
    Switch("train.ema.decay", (0.0, 0.999)),
    Switch("distill.teacher", (None, "teacher")),
    Switch("distill.weight", (0.0, 0.5, 1.0)),
    Switch("distill.temperature", (2.0, 1.0)),
    # predictions
    Switch("inference.tta", (["identity"], ["identity", "hflip"], ["rot90", "top_left"], ["centre"])),
    Switch("inference.scales", (None, [64], [32, 64])),
    Switch("inference.crop", (None, 0.75)),
    Switch("inference.average", ("probability", "logit", "rank")),
    Switch("inference.batch_size", (64, 5)),
    Switch("inference.candidates", (50, 3), RANKS),
    Switch("inference.expansion", ({},), RANKS),
    Switch("inference.expansion.k", (5, 2), RANKS),
    Switch("inference.expansion.alpha", (3.0, 0.0), RANKS),
    Switch("inference.expansion.gallery", (False, True), RANKS),
    Switch("inference.rerank", ({},), RANKS),
    Switch("inference.rerank.k1", (20, 4), RANKS),
    Switch("inference.rerank.k2", (6, 1), RANKS),
    Switch("inference.rerank.weight", (0.3, 1.0), RANKS),
)

NO_TRICK = {  # keys that are drawn nowhere, with the reason
    "says what the competition is; stage 01 and its tests": (
        "competition.slug competition.title competition.kaggle_username task.name task.metric data.raw "
        "data.train_csv data.test_csv data.sample_csv data.id data.target data.label_separator data.long "
        "data.image data.group data.train_images data.test_images data.train_masks data.mask "
        "data.mask_classes data.rle data.new_label data.max_value data.near_duplicates"
    ),
    "decides the cache, which is made once here": "data.image_size data.fit",
    "decides the folds, which are made once here": (
        "cv.kind cv.n_folds cv.seed cv.stop_parts cv.allow_rare cv.new_share"
    ),
    "needs a download or a file": "model.pretrained model.weights",
    "names things": "name seed fold folds",
    "stage 04: which test rows become training rows; tests/test_pseudo.py": (
        "pseudo.rounds pseudo.threshold pseudo.labels pseudo.pixels pseudo.quantile pseudo.weight "
        "pseudo.epochs"
    ),
    "stage 05, of finished runs; tests/test_stack.py": (
        "stack.name stack.members stack.learning_rate stack.num_leaves stack.min_data_in_leaf "
        "stack.max_rounds stack.patience"
    ),
    "stage 06; tests/test_submission.py": "submit.source submit.name",
    "how, not what": (
        "tracking.wandb tracking.project runtime.device runtime.jobs runtime.threads runtime.workers"
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
        value: Any = defaults
        for part in switch.key.split("."):
            value = value[part] if value is not None else None
        assert any(drawn != value for drawn in switch.values), switch.key


# --- drawing ------------------------------------------------------------------------------------------------


def draw(task: str, rng: np.random.Generator, decks: dict[Switch, list[Any]]) -> dict[Switch, Any]:
    """Values for a random half of the switches; keys below a section that was drawn as null are left out.

    A switch's values come from its deck, which is shuffled when it is empty: none is out of luck for long.
    """
    drawn: dict[Switch, Any] = {}
    sections = {switch.key: switch for switch in SWITCHES}
    for switch in SWITCHES:
        if task not in switch.tasks or rng.random() < 0.5:
            continue
        above = sections.get(switch.key.rpartition(".")[0])
        if above is not None and drawn.get(above) is None:
            continue
        deck = decks.setdefault(switch, [])
        if not deck:
            deck += [switch.values[i] for i in rng.permutation(len(switch.values))]
        drawn[switch] = deck.pop()
    return drawn


def words(drawn: dict[Switch, Any]) -> list[str]:
    """As they would stand on the command line."""
    return [f"{switch.key}={json.dumps(value)}" for switch, value in drawn.items()]


# --- training -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=EVERYWHERE)
def made(request, tmp_path_factory) -> tuple[str, Path]:
    """A task and its competition, with a finished teacher for fold 0."""
    rows = 80 if request.param == "multiclass" else 48  # ten classes want more
    path = prepare_competition(tmp_path_factory.mktemp(request.param), request.param, 32, rows, n_test=8)
    config = load_config(path)
    task = create_task(config)
    data = load_fold(config, task, 0)
    trainer = Trainer(config, task, data, data.train, 0, CPU)
    folder = config.root / "runs" / "teacher" / "fold0"
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
        step(optimizer, model, clip_grad)

    trainer.precision.step = watched
    return trainer, trainer.train_epoch(0, lambda *_, **__: None), seen


def reached(trainer: Trainer) -> set[str]:
    """Names of the parameters that may move and that any output of the network depends on."""
    images = torch.from_numpy(np.array(trainer.data.store.pixels[:4])).permute(0, 3, 1, 2)
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
    for table in KINDS[task.kind](Asked(config, task, data, model, CPU, lambda rows: None)).values():
        said = task.read(table, data.outputs)
        assert len(said) == len(table)
        if task.kind == "numbers":
            assert np.isfinite(said).all()
        elif task.kind == "rankings":
            assert all(np.isfinite(row).all() and np.all(np.diff(row) <= 0) for row in said.scores)


def test_random_combinations_train_or_are_refused_with_a_sentence(made):
    """What is refused is told by the keys to change: with one of these left out, the rest is tried again."""
    task, path = made
    rng, decks = np.random.default_rng(EVERYWHERE.index(task)), {}
    refused, seen = Counter(), set()
    for _ in range(DRAWS):
        drawn = draw(task, rng, decks)
        while (message := complaint(task, path, drawn)) is not None:
            named = [switch for switch in drawn if names(message, switch.key)]
            assert is_a_sentence(message), message
            assert named, f"{message!r} names nothing that was set: {' '.join(words(drawn))}"
            out = named[rng.integers(len(named))]
            for switch in [s for s in drawn if s is out or s.key.startswith(f"{out.key}.")]:
                decks[switch].insert(0, drawn.pop(switch))  # for another time
            refused[message] += 1
        seen |= {(switch.key, str(value)) for switch, value in drawn.items()}
    once = {(s.key, str(v)) for s in SWITCHES if task in s.tasks for v in s.values}
    assert once - seen == NEVER.get(task, set()), refused.most_common(5)


def complaint(task: str, path: Path, drawn: dict[Switch, Any]) -> str | None:
    """Why a combination is refused; None where it trained."""
    try:
        config = load_config(path, words(drawn))
        check_names(config)
        check_trained(config)
    except UserError as error:
        return str(error).removeprefix(str(path)).removeprefix(" with the command line: ")
    except Exception as error:
        raise AssertionError(f"{task} does not take {' '.join(words(drawn))}") from error
    return None


def names(message: str, key: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(key)}(?!\w)", message) is not None


NEVER = {  # what a task refuses, whatever is combined with it
    "multiclass": {("inference.average", "rank"), ("train.loss", "bce")},
    "binary": {("train.loss", "cross_entropy")},
    "multilabel": {("train.loss", "cross_entropy")},
    "regression": {("inference.average", "rank")},
    "segmentation": {("inference.average", "rank"), ("inference.tta", "['centre']")},
    "retrieval": {("inference.average", "rank")},
}


def is_a_sentence(message: str) -> bool:
    """One line, of more words than a key."""
    return "\n" not in message and len(message.split()) >= 4
