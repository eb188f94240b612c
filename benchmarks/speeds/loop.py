"""The training loop against the bare mathematics: forward, backward and optimiser of the same network on
tensors that are there already."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from speeds.rounds import interleave, ratio

BACKBONE, SIZE, BATCH, STEPS, CLASSES = "resnet18", 96, 32, 6, 10


def trainer_of(**train: Any) -> Any:
    """A trainer of synthetic images, without stopping rows: nothing but steps is in an epoch."""
    import torch

    from src.config import Config
    from src.data.images import ImageStore
    from src.data.loaders import FoldData, Rows
    from src.tasks import create_task
    from src.training.fit import Trainer

    config = Config(
        data={"image_size": SIZE},
        model={"backbone": BACKBONE, "pretrained": False},
        train={"batch_size": BATCH, "epochs": 1000, "early_stopping": {"enabled": False}, **train},
    )
    n, random = STEPS * BATCH, np.random.default_rng(0)
    pixels = random.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
    ids = [str(i) for i in range(n)]
    store = ImageStore(pixels, np.arange(n), np.arange(0), ids, [], (0.5,) * 3, (0.2,) * 3)
    targets = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, n)]
    rows = Rows(np.arange(n), targets, np.ones(n, np.float32))
    none = Rows(np.arange(0), targets[:0], np.ones(0, np.float32))
    index, names = np.arange(0), [f"class {c}" for c in range(CLASSES)]
    data = FoldData(store, names, rows, none, none, np.arange(n), index, index, index, index)
    return Trainer(config, create_task(config), data, rows, 0, torch.device("cpu"))


def bare_of(trainer: Any) -> Any:
    """As many steps of a copy of the network, on the batches of the trainer's first epoch."""
    import torch.nn.functional as F

    from src.training.optim import create_optimizer

    model = copy.deepcopy(trainer.model).train()
    optimizer = create_optimizer(model, trainer.config.train)
    batches = [(images, targets) for images, targets, _ in trainer.loader]

    def steps() -> None:
        for images, targets in batches:
            F.cross_entropy(model(images).logits, targets).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps


def measure(rounds: int) -> dict[str, Any]:
    """How many times as long as the bare steps: the loop as it is by default, without its EMA, and compiled
    (once, in the round that is not counted)."""
    trainers = {"default": trainer_of(), "without EMA": trainer_of(ema={"enabled": False})}
    trainers["compiled"] = trainer_of(compile=True)
    rivals = {"bare": bare_of(trainers["default"])}
    for name, trainer in trainers.items():
        rivals[name] = lambda trainer=trainer: trainer.train_epoch(trainer.epoch, lambda *_, **__: None)
    print(f"loop, {BACKBONE} at {SIZE} px, batch {BATCH}:", flush=True)
    seconds = interleave(rivals, rounds)
    rows = {name: ratio(seconds, name, "bare") for name in trainers}
    return {"rows": rows, "note": f"{BACKBONE}, {SIZE} px, batches of {BATCH}, {STEPS} steps a round"}
