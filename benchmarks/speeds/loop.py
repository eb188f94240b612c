"""The training loop against the bare mathematics: forward, backward and optimiser of the same network on
tensors that are there already."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from speeds.rounds import interleave, ratio

BACKBONE, SIZE, BATCH, STEPS, CLASSES = "resnet18", 96, 32, 6, 10


def cpu_trainer(**train: Any) -> Any:
    """A trainer of noise on one core."""
    n = STEPS * BATCH
    pixels = np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
    settings = {"data": {"image_size": SIZE}, "model": {"backbone": BACKBONE, "pretrained": False}}
    return trainer_of(pixels, settings | {"train": {"batch_size": BATCH, **train}}, "cpu")


def trainer_of(pixels: Any, settings: dict[str, Any], device: str) -> Any:
    """A trainer of these images and random classes, without early-stopping rows: nothing but steps is in an
    epoch."""
    import torch

    from src.config import Config
    from src.data.images import ImageStore
    from src.data.loaders import FoldData, TrainingRows
    from src.tasks import create_task
    from src.training.trainer import Trainer

    endless = {"epochs": 1000, "early_stopping": {"enabled": False}}
    config = Config(**{**settings, "train": endless | settings["train"]})
    n, random = len(pixels), np.random.default_rng(0)
    ids = [str(i) for i in range(n)]
    store = ImageStore(pixels, np.arange(n), np.arange(0), ids, [], (0.5,) * 3, (0.2,) * 3)
    targets = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, n)]
    rows = TrainingRows(np.arange(n), targets, np.ones(n, np.float32))
    none = TrainingRows(np.arange(0), targets[:0], np.ones(0, np.float32))
    index, names = np.arange(0), [f"class {c}" for c in range(CLASSES)]
    data = FoldData(store, names, rows, none, none, np.arange(n), index, index, index, index)
    return Trainer(config, create_task(config), data, rows, 0, torch.device(device))


def bare_of(trainer: Any) -> Any:
    """As many steps of a copy of the network, in the same precision, on the batches of the trainer's first
    epoch, which lie on the device."""
    import torch.nn.functional as F

    from src.training.devices import Precision
    from src.training.optim import create_optimizer

    model = copy.deepcopy(trainer.model).train()
    optimizer = create_optimizer(model, trainer.config.train)
    device, precision = trainer.device, Precision(trainer.config.train.amp, trainer.device)
    batches = [(images.to(device), targets.to(device)) for images, targets, _ in trainer.loader]

    def steps() -> None:
        for images, targets in batches:
            with precision.autocast():
                loss = F.cross_entropy(model(images).logits, targets)
            precision.backward(loss)
            precision.scaler.step(optimizer)
            precision.scaler.update()
            optimizer.zero_grad(set_to_none=True)

    return steps


def measure(rounds: int) -> dict[str, Any]:
    """How many times as long as the bare steps: the loop as it is by default, without its EMA, and compiled
    (once, in the round that is not counted)."""
    trainers = {"default": cpu_trainer(), "without EMA": cpu_trainer(ema={"enabled": False})}
    trainers["compiled"] = cpu_trainer(compile=True)
    blenders = {"bare": bare_of(trainers["default"])}
    for name, trainer in trainers.items():
        blenders[name] = lambda trainer=trainer: trainer.train_epoch(trainer.epoch, lambda *_, **__: None)
    print(f"loop, {BACKBONE} at {SIZE} px, batch {BATCH}:", flush=True)
    seconds = interleave(blenders, rounds)
    rows = {name: ratio(seconds, name, "bare") for name in trainers}
    return {"rows": rows, "note": f"{BACKBONE}, {SIZE} px, batches of {BATCH}, {STEPS} steps a round"}
