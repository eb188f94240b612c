"""Probes of a config's effects on fixed inputs: two configs with equal probes behave the same there.

A probe returns arrays, numbers and text, which `signature` hashes. All inputs come from fixed seeds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import timm  # noqa: F401  (once, before anything is timed)
import torch
from torch import nn

from src.config import MARGINS, Config, snapshot_names
from src.config.effects import TREES
from src.data.augment import augment_batch, create_augmentation
from src.data.folds import parts_of
from src.data.images import ImageStore
from src.data.loaders import TrainingRows, create_sampler
from src.data.mixing import Mixer
from src.data.multi_scale import sizes_of
from src.data.unlabelled import strong_view
from src.ensemble.blenders import fitter
from src.ensemble.blenders.base import LevelData
from src.inference.fold_tables import identities
from src.inference.predict import embed, predict, predict_maps
from src.losses.build import create_loss
from src.losses.consistency import consistency
from src.losses.margins import margin_scale
from src.losses.reduction import reduce
from src.maps import Maps
from src.metrics.retrieval import Ranking
from src.models.build import create_model
from src.models.output import Output
from src.models.scale import TargetScale
from src.pseudo.select import select
from src.pseudo.steps import calibrated_on, labellers
from src.steps import round_of
from src.tasks import create_task
from src.training.architecture import create_architecture
from src.training.averaging import Average, StochasticAverage
from src.training.consistency import ConsistencyTraining
from src.training.devices import Precision
from src.training.freeze import Freeze
from src.training.optim import create_optimizer
from src.training.schedule import Schedule
from src.training.snapshots import Snapshots
from src.training.teachers import distilled_losses
from src.training.trainer import Trainer

CPU = torch.device("cpu")
N, SIDE = 24, 64
EPOCHS = 4  # of the trainings that are probed


def outputs_of(task: str) -> list[str]:
    """The output names of a task."""
    return [f"class {i}" for i in range({"binary": 1, "regression": 2}.get(task, 3))]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """A standard normal tensor from a fixed seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(n: int = N) -> np.ndarray:
    """(N,) labels of three classes: the first has more than half of the rows, the last the fewest."""
    return np.array([0, 0, 0, 1, 1, 0, 0, 0, 1, 2][: min(n, 10)] * math.ceil(n / 10))[:n]


def targets_of(task: str) -> np.ndarray:
    """Targets (N, C) in the form of `Task.encode`."""
    if task == "regression":
        return np.exp(normal(N, 2, seed=3).numpy())
    if task == "retrieval":
        return classes()[:, None].astype(np.float32)
    one_hot = np.eye(3, dtype=np.float32)[classes()]
    return one_hot[:, 1:2] if task == "binary" else one_hot


def signature(found: Any) -> str:
    """A hash of arrays, tensors, numbers and text in nested lists, tuples and dictionaries."""
    whole = hashlib.sha256()

    def take(value: Any) -> None:
        if torch.is_tensor(value):
            value = value.detach().cpu().numpy()
        if isinstance(value, pd.DataFrame):
            value = value.to_dict("list")
        if isinstance(value, np.ndarray) and value.dtype != object:
            whole.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        elif isinstance(value, dict):
            take([[key, inner] for key, inner in value.items()])
        elif isinstance(value, list | tuple | np.ndarray):
            whole.update(b"[")
            for one in value:
                take(one)
        else:
            whole.update(repr(value).encode())

    take(found)
    return whole.hexdigest()


# --- training -----------------------------------------------------------------------------------------------


def loss(config: Config) -> Any:
    """Per-sample losses of fixed outputs, and the loss of the batch."""
    task, settings = config.task.name, config.train
    names, targets = outputs_of(task), targets_of(task)
    metric = normal(N, 5, seed=1)
    logits = 2 * normal(N, len(names))
    if task == "segmentation":
        logits = 2 * normal(N, 3, 4, 4)
        maps = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(0, 4, (N, 4, 4))]
        wanted = torch.from_numpy(maps[..., 1:].transpose(0, 3, 1, 2).copy())
    else:
        wanted = torch.from_numpy(targets).float()
    if settings.name(task) in MARGINS:
        logits = margin_scale(settings.margin, len(names)) * normal(N, len(names)).tanh()
    if task == "regression":
        scale = TargetScale.of(targets, settings.target_log)
        wanted = torch.from_numpy(scale.encode(targets))
    module = create_loss(task, settings, names, targets, features=5)
    output, weights = Output(logits, metric, metric=metric), torch.linspace(0.5, 1.5, N)
    found = [module(output, wanted) for _ in range(2)]  # class centres change between the calls
    batch = reduce(found[1], weights, float(weights.sum()), settings.top_share)
    exclusive = getattr(create_task(config), "exclusive", None)
    return found, batch, exclusive


@cache
def backbone_network() -> nn.Module:
    """A small backbone network with fixed weights."""
    torch.manual_seed(0)
    return create_model(architecture_of(Config(model={"backbone": "test_resnet", "pretrained": False})))


def rates(config: Config) -> Any:
    """Learning rate, momentum and weight decay per group and step; the frozen layers; one clipped step."""
    network, settings = backbone_network(), config.train
    freeze = Freeze(network, settings)
    optimizer = create_optimizer(network, settings)
    schedule = Schedule(optimizer, settings, 6)
    keys = ("lr", "momentum", "betas", "weight_decay")
    found: list[Any] = [type(optimizer).__name__]
    for epoch in range(settings.epochs):
        freeze.apply(epoch)
        found.append([name for name, p in network.named_parameters() if p.requires_grad])
        found.append([module.training for module in network.modules()])
        for _ in range(6):
            found.append([[group.get(key) for key in keys] for group in optimizer.param_groups])
            schedule.step()
            schedule.look(0.5)
    freeze.apply(settings.freeze_epochs or 0)
    line = nn.Linear(2, 1)
    with torch.no_grad():
        line.weight.fill_(1.0), line.bias.fill_(0.0)
    precision = Precision("off", CPU)
    sgd = torch.optim.SGD(line.parameters(), lr=1.0)
    precision.backward(10 * line(torch.ones(1, 2)).sum())
    precision.step(sgd, line, settings.clip_grad)
    return found, line.weight


def loop(config: Config) -> Any:
    """The batches of two epochs, the early-stopping decisions, and which weights are kept."""
    task, settings = config.task.name, config.train
    targets = targets_of(task)
    if config.identities:  # six identities
        targets = np.eye(6)[np.arange(N) % 6] if task == "multiclass" else np.arange(N)[:, None] % 6
    rows = TrainingRows(np.arange(N), targets, np.ones(N, np.float32))
    sampler = create_sampler(rows, config, seed=1)
    found: list[Any] = [settings.epochs, -(-len(sampler) // settings.accumulate), settings.accumulate]
    for sampler.epoch in range(2):
        found += sampler.batches()
    best = SimpleNamespace(epoch=0)
    found += [
        Trainer.should_stop(SimpleNamespace(epoch=epoch, best=best, config=config)) for epoch in range(9)
    ]
    found.append(settings.early_stopping.enabled)  # decides which rows load_fold sets aside
    line = nn.Linear(3, 1)
    average = Average(line, settings.ema)
    swa = StochasticAverage(line, settings) if settings.swa.start is not None else None
    for epoch in range(settings.epochs):
        with torch.no_grad():
            line.weight.fill_(float(epoch)), line.bias.fill_(0.0)
        average.update()
        if swa is not None:
            swa.take(line, epoch)
    found += [average.model.weight, None if swa is None else swa.model.weight]
    folder = config.root
    found += [snapshot_names(settings), list(Snapshots(folder, settings).ends), settings.soup]
    return found


def architecture_of(config: Config) -> Any:
    """The architecture that a config describes, for fixed data."""
    task = create_task(config)
    store = SimpleNamespace(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    data = SimpleNamespace(outputs=outputs_of(config.task.name), store=store)
    scale = TargetScale.of(targets_of("regression"), False) if task.scaled else TargetScale()
    return create_architecture(config, task, data, scale)


def network(config: Config) -> Any:
    """The outputs of a config's network for fixed images, in training and in evaluation mode."""
    torch.manual_seed(0)
    model, noise = create_model(architecture_of(config)), torch.Generator().manual_seed(2)
    with torch.no_grad():  # residual blocks start as identities
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=noise)
    images = (normal(4, 3, SIDE, SIDE).clamp(-2, 2) * 60 + 128).to(torch.uint8)
    found = []
    for mode in (True, False):
        torch.manual_seed(1)
        with torch.no_grad():
            output = model.train(mode)(images)
        found += [view.logits for view in output.all()]
        found += [view.embedding for view in output.all()]
    return found


# --- pixels -------------------------------------------------------------------------------------------------


@cache
def images(side: int) -> np.ndarray:
    """Smooth images (8, side, side, 3) uint8."""
    grid = np.linspace(0, 6, side)
    waves = [np.sin(grid * (k + 1))[:, None] * np.cos(grid * (c + 1)) for k in range(8) for c in range(3)]
    return (127 * (1 + np.array(waves)).reshape(8, 3, side, side).transpose(0, 2, 3, 1)).astype(np.uint8)


def pixels(config: Config) -> Any:
    """Two augmented batches, and the image sizes of multi-scale training."""
    data, augment = config.data, config.augment
    pipeline = create_augmentation(augment, data.image_size, data.cached_size)
    found = [augment_batch(pipeline, images(data.cached_size), seed) for seed in range(2)]
    return found, None if augment.scales is None else sizes_of(augment.scales, data.image_size, 32)


def mixing(config: Config) -> Any:
    """Mixed batches (mixup, CutMix) of every epoch."""
    mixer, found = Mixer(config.mixing, config.train.epochs), []
    for epoch in range(config.train.epochs):
        for seed in range(5):
            found += mixer(normal(4, 3, 8, 8), normal(4, 2, seed=1), torch.ones(4), epoch, seed)
    return found


def lesson(config: Config) -> Any:
    """Distillation losses with fixed teacher outputs; None without a teacher."""
    settings, task = config.distill, create_task(config)
    if not settings.teachers:
        return None
    shape = (N, 3, 4, 4) if task.kind == "maps" else (N, 3)
    student, teacher = (Output(3 * normal(*shape, seed=seed), normal(N, 6, seed=seed + 1)) for seed in (0, 4))
    kind = task.distillation
    return settings.teachers, distilled_losses(settings, kind, TargetScale(), torch.ones(N), student, teacher)


class _Sampler:
    def __init__(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return 4


def unlabelled(config: Config) -> Any:
    """Consistency losses, weights and strong views of unlabelled rows."""
    settings, task = config.consistency, create_task(config)
    if settings is None:
        return None
    shape = (N, 3, 4, 4) if task.kind == "maps" else (N, 3)
    seen = torch.ones(N, 1, *shape[2:], dtype=torch.bool)
    sure = consistency(
        task.distillation, normal(*shape), 4 * normal(*shape, seed=1), settings.threshold, seen
    )
    ramp = settings.ramp(config.train.epochs)
    weights = [
        ConsistencyTraining.weight.fget(
            SimpleNamespace(ramp=ramp, settings=settings, sampler=_Sampler(epoch), number=1)
        )
        for epoch in range(config.train.epochs)
    ]
    size = config.data.image_size
    strong = augment_batch(create_augmentation(strong_view(config, 3), size), images(size), 0)
    return sure, weights, strong, settings.ratio


# --- predictions, pseudo-labels, stacking, folds ------------------------------------------------------------


class _Model(nn.Module):
    """A network with few weights whose outputs depend on position."""

    def __init__(self, outputs: int, maps: bool):
        super().__init__()
        torch.manual_seed(0)
        self.look = nn.Conv2d(3, outputs, 5, padding=2)
        self.place = nn.Parameter(torch.randn(outputs, 8, 8))
        self.maps, self.scale = maps, TargetScale()
        self.architecture = SimpleNamespace(n_outputs=outputs)

    def forward(self, x: torch.Tensor) -> Output:
        levels = self.look(x.float() / 64)
        where = nn.functional.interpolate(self.place[None], size=levels.shape[-2:], mode="bilinear")
        levels = levels * where
        pooled = levels.mean((2, 3)) * 8
        return Output(
            logits=levels if self.maps else pooled,
            embedding=nn.functional.adaptive_avg_pool2d(levels, 4).flatten(1),
        )


def predictions(config: Config) -> Any:
    """A network's predictions for fixed images, with the config's inference settings."""
    task, settings, data = create_task(config), config.inference, config.data
    store = ImageStore(
        images(data.image_size), np.arange(8), np.arange(0), list("abcdefgh"), [], (0.5,) * 3, (1,) * 3
    )
    model, places = _Model(len(outputs_of(task.name)), task.kind == "maps"), np.arange(8)
    if task.kind == "numbers":
        return predict(model, task, store, places, settings, CPU)[0]
    if task.kind == "maps":
        sizes = [(data.image_size, data.image_size)] * 8
        return list(predict_maps(model, task, store, places, sizes, settings, data, CPU))
    model.place.data = torch.ones_like(model.place)
    found = embed(model, store, places, settings, CPU)
    gallery = normal(60, 8, seed=2).numpy()
    queries = normal(7, 8, seed=3).numpy()
    ranked = identities(queries, gallery, np.arange(60) % 55, settings)
    return found, ranked


def selection(config: Config) -> Any:
    """The pseudo-labelled rows that a round trains on, and its training settings."""
    if config.pseudo.rounds == 0:
        return None
    task, run, names = create_task(config), round_of(config, 1), outputs_of(config.task.name)
    random, pseudo = np.random.default_rng(0), run.config.pseudo
    ids = [str(i) for i in range(60)]
    truth = pd.DataFrame({"target": [names[i] for i in classes(60) % len(names)]})
    labelled = None if task.kind == "maps" else np.resize(targets_of(task.name), (60, len(names)))
    if task.name == "multiclass":
        said = task.write(random.dirichlet([0.4] * 3, 60).astype(np.float32), names)
    elif task.kind == "maps":
        sure = 0.49 * random.random((60, 3, 4, 4)) ** np.linspace(0, 2, 60)[:, None, None, None]
        said = task.write(Maps.of(((0.5 + sure) * 255).astype(np.uint8)), names)
        truth = task.write(Maps.of((random.random((60, 3, 4, 4)) < 0.7) * np.uint8(255)), names)
        truth = truth.add_prefix("target.")
        said.insert(0, "height", 4), said.insert(1, "width", 4)
    elif task.kind == "rankings":
        scores = np.sort(random.random((60, 3)))[:, ::-1]
        right = random.random(60) < scores[:, 0] ** 3
        first = np.arange(60) % 3
        truth["target"] = [names[i] for i in np.where(right, first, (first + 1) % 3)]
        labels = [[names[(j + k) % 3] for k in range(3)] for j in first]
        said = task.write(Ranking(labels, scores.tolist()), names)
    else:
        said = task.write(random.beta(0.4, 0.4, (60, len(names))).astype(np.float32), names)
        if task.scaled:
            said["spread"] = random.random(60)
    if task.name == "binary":
        truth = pd.DataFrame({"target": np.where(classes(60) == 1, names[0], "other")})
    if task.name == "multilabel":
        truth = pd.DataFrame((np.eye(3)[classes(60)]).astype(int).astype(str), columns=names).add_prefix(
            "target."
        )
    known = said.drop(columns="spread", errors="ignore").join(truth)
    said.insert(0, "id", ids)
    found = select(said, task, names, pseudo, known, labelled)
    where = [str(path) for path in labellers(run, 0)], str(calibrated_on(run, 0)), str(run.start(0))
    return found, where, run.config.train.epochs, pseudo.rounds, pseudo.external, pseudo.weight


def second_level(config: Config) -> Any:
    """LightGBM stacking of three members' predictions; the trees treat pixels and pairs in the same way."""
    task = create_task(config)
    if task.kind != "numbers":
        return [getattr(config.stack, key.partition(".")[2]) for key in TREES.split()]
    settings, found = config.stack, [config.stack.blenders, config.stack.calibrate]
    n, random = 300, np.random.default_rng(0)
    said = random.normal(size=(3, n, len(outputs_of(task.name))))
    signal = said[0] * np.sign(said[1]) + 0.5 * said[2] + 0.5 * random.normal(size=said[0].shape)
    targets, oof = signal, said
    if task.stacking == "labels":
        targets, oof = (signal > 0) * 1.0, 1 / (1 + np.exp(-said))
    elif task.stacking == "classes":
        targets, oof = np.eye(3)[signal.argmax(1)], np.exp(said) / np.exp(said).sum(2, keepdims=True)
    level = LevelData(oof.astype(np.float32), targets, np.arange(n) % 3, task.stacking, settings, config.seed)
    for name in {"lightgbm"} & set(settings.blenders):
        found.append(fitter(name)(level).apply(oof))
    return found


def folds(config: Config) -> Any:
    """The fold and the early-stopping part of grouped rows."""
    labels = np.repeat(classes(60), 2)
    return parts_of(config, create_task(config), labels, np.arange(120) // 2)


PROBES: dict[str, Callable[[Config], Any]] = {
    "cv": folds,
    "model": network,
    "augment": pixels,
    "mixing": mixing,
    "distill": lesson,
    "consistency": unlabelled,
    "inference": predictions,
    "pseudo": selection,
    "stack": second_level,
}
